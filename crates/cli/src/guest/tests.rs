mod docker;
mod native;
mod world;
