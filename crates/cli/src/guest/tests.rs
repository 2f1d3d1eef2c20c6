mod browser;
mod docker;
mod native;
mod seed;
mod verbs;
mod world;
