//! A descriptor of a tap that exists already, for a VMM that may not open it itself. Opens /dev/net/tun.

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
};

use fireclaw_core::{
    error::{Context, Error, Result},
    id::TapName,
};
use nix::{
    errno::Errno,
    libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, TUNSETIFF, c_short, ifreq, ioctl},
    net::if_::if_nametoindex,
};

/// Attaches to a tap. One that does not exist is an error: the kernel would make it, on no bridge and without its rules.
pub fn attach(tap: &TapName) -> Result<OwnedFd> {
    let failed = || Error::new("attach to", format!("tap {tap}"));
    if_nametoindex(tap.as_str()).map_err(|error| failed().source(error))?;
    let device =
        File::options().read(true).write(true).open("/dev/net/tun").context("open", "/dev/net/tun")?;
    // Frames come without the kernel's four bytes in front, and with the header that carries checksum and segmentation
    // offload between guest and host.
    match set_interface(&device, tap, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) {
        Ok(()) => Ok(device.into()),
        Err(Errno::EBUSY) => {
            Err(failed().because("another process holds it").hint("is the instance running already?"))
        }
        Err(error) => Err(failed().source(error)),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the flags are three of the low sixteen bits, and c_char is a byte"
)]
fn set_interface(device: &File, tap: &TapName, flags: i32) -> Result<(), Errno> {
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    // A TapName has at most 15 bytes, so the sixteenth stays the terminating zero.
    for (to, from) in request.ifr_name.iter_mut().zip(tap.as_str().bytes()) {
        *to = from as _;
    }
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is and outlives the call; the descriptor is open.
    Errno::result(unsafe { ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) }).map(drop)
}
