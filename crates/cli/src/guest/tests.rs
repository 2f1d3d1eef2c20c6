mod browser;
mod docker;
mod native;
mod verbs;
mod world;
