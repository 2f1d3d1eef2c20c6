//! Struct to text: what fireclaw writes for other programs to read. Touches nothing.

pub mod cloud_init;
