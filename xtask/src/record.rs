//! The record of an instance that has no VM: for what starts a proxy alone. Pure.

use std::net::IpAddr;

/// The least that a record needs, for a proxy without systemd. `guest` is an address of loopback.
pub fn text(id: &str, port: u16, guest: IpAddr) -> String {
    format!(
        "FIRECLAW_STATE_FORMAT=plain-v2\nINSTANCE_ID={id}\nHOST_PORT={port}\nVM_IP={guest}\nVM_TAP=t{id}9\n\
         VM_MAC=06:fc:00:10:00:09\nGATEWAY_TOKEN=none\nMODEL=anthropic/claude-opus-4-6\nSKILLS=github\n\
         TELEGRAM_USERS=\nVM_VCPU=1\nVM_MEM_MIB=512\nDISK_SIZE=1G\nSSH_KEY_PATH=/root/.ssh/none\n\
         SKIP_BROWSER_INSTALL=true\nVMM=qemu\nSUPERVISOR=embedded\nRUNTIME=native\n"
    )
}
