//! Struct to text: everything that is written to a file or handed to a program. Pure, and pinned by golden files.

pub mod scripts;
