//! What the key broker decides: which provider a path means, how its key is carried, what an answer says of tokens, and
//! whether a budget is left. Touches nothing.

mod budget;
mod provider;
mod usage;

pub use self::{
    budget::Budget,
    provider::{Provider, Refused, route},
    usage::{Counter, Tokens},
};
