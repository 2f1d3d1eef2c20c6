//! Tap devices by the ioctls of /dev/net/tun. Opens that device and makes or opens taps; who may have which name is
//! decided in `network`.
//!
//! A tap is made in two steps. After the first it lasts only as long as its descriptor, so that it can be marked as ours
//! before [`NewTap::keep`] makes it persistent: a crash in between leaves no tap that nobody knows.

use std::{
    fs::{File, OpenOptions},
    os::fd::{AsRawFd, OwnedFd},
};

use fireclaw_core::{
    error::{Error, Kind, Result},
    id::TapName,
};
use nix::{errno::Errno, libc};

/// The device that makes taps.
pub const TUN_DEVICE: &str = "/dev/net/tun";

/// `IFF_TUN_EXCL` of `linux/if_tun.h`: fail when the name is taken.
const IFF_TUN_EXCL: libc::c_int = 0x8000;

mod ioctl {
    #![allow(missing_docs, reason = "made by a macro")]
    use nix::libc;

    // linux/if_tun.h declares all three over `int`. The first takes and fills an ifreq, the others take a value.
    nix::ioctl_readwrite_bad!(
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(tun_set_persist, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(tun_set_owner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));
}

/// A tap that vanishes when this is dropped, unless it is kept.
#[derive(Debug)]
pub struct NewTap {
    name: TapName,
    device: File,
}

impl NewTap {
    /// Makes a tap with the virtio-net header that both VMMs use. A taken name is an error.
    pub fn make(name: &TapName) -> Result<Self> {
        let device = attached(name, IFF_TUN_EXCL).map_err(|error| match error {
            Failed::Device(error) => error,
            Failed::Attach(errno) => Error::new("create", format!("tap {name}")).source(errno),
        })?;
        Ok(Self { name: name.clone(), device })
    }

    /// Lets `owner_uid` open the tap, and makes it outlive this process.
    pub fn keep(self, owner_uid: u32) -> Result<()> {
        set_owner(&self.device, &self.name, owner_uid)?;
        // SAFETY: the descriptor is open, and the kernel takes this argument by value.
        unsafe { ioctl::tun_set_persist(self.device.as_raw_fd(), 1) }
            .map_err(|errno| Error::new("keep", format!("tap {}", self.name)).source(errno))?;
        Ok(())
    }
}

/// Opens a tap that is there, for a VMM that takes a descriptor. It is closed on `exec(2)` unless the caller says
/// otherwise. A tap has one user at a time.
pub fn open(name: &TapName) -> Result<OwnedFd> {
    opened(name).map(OwnedFd::from)
}

/// Gives a tap that nobody uses to another user.
pub fn hand_over(name: &TapName, owner_uid: u32) -> Result<()> {
    set_owner(&opened(name)?, name, owner_uid)
}

fn opened(name: &TapName) -> Result<File> {
    // Without this look the kernel would make a new tap of the name.
    if nix::net::if_::if_nametoindex(name.as_str()).is_err() {
        return Err(Error::new("open", format!("tap {name}"))
            .because("there is no such link")
            .hint("`fireclaw restart` makes the tap anew"));
    }
    attached(name, 0).map_err(|error| match error {
        Failed::Device(error) => error,
        Failed::Attach(Errno::EBUSY) => Error::new("open", format!("tap {name}"))
            .because("another process uses it")
            .hint(format!("`fuser -v {TUN_DEVICE}` shows which; is the VM running already?")),
        Failed::Attach(errno) => Error::new("open", format!("tap {name}")).source(errno),
    })
}

fn set_owner(device: &File, name: &TapName, uid: u32) -> Result<()> {
    let uid = libc::c_int::from_ne_bytes(uid.to_ne_bytes());
    // SAFETY: the descriptor is open, and the kernel takes this argument by value.
    unsafe { ioctl::tun_set_owner(device.as_raw_fd(), uid) }
        .map_err(|errno| Error::new("set the owner of", format!("tap {name}")).source(errno))?;
    Ok(())
}

enum Failed {
    Device(Error),
    Attach(Errno),
}

/// Opens the tun device and ties it to the tap of this name.
fn attached(name: &TapName, extra: libc::c_int) -> Result<File, Failed> {
    let device = OpenOptions::new().read(true).write(true).open(TUN_DEVICE).map_err(|error| {
        Failed::Device(
            Error::new("open", TUN_DEVICE)
                .kind(Kind::HostNotReady)
                .source(error)
                .hint("load the module `tun`, or hand the device into the container"),
        )
    })?;
    // SAFETY: ifreq is a C struct of integers and byte arrays, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // A tap's name has at most 15 bytes, so the last of the 16 stays zero.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_str().bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | extra;
    // The flags are bits of a C short; 0x8000 is its sign.
    #[expect(clippy::cast_possible_truncation, reason = "all flags are in the lower 16 bits")]
    let flags = flags as libc::c_short;
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: the descriptor is open, and `request` is an ifreq of ours that the kernel reads and writes during the call.
    unsafe { ioctl::tun_set_iff(device.as_raw_fd(), &raw mut request) }.map_err(Failed::Attach)?;
    Ok(device)
}
