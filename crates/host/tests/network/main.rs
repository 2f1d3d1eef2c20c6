//! The network with real kernel objects and real packets, in network namespaces that vanish with their test. What was
//! made is looked at by `ip`, `bridge` and `nft`; what a hostile guest sends is written to its tap frame by frame, once
//! without our firewall, to see that it would arrive, and once with it.
//!
//! Needs root and /dev/net/tun; without them the tests fail.

mod flows;
mod frame;
mod guest;
mod hostile;
mod lab;
mod links;
mod rates;
