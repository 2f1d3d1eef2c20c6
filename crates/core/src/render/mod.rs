//! Stub.

pub mod nft;
