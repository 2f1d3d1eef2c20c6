//! What root in a guest tries. Each frame is sent twice: without the firewall it must arrive, or the test proves
//! nothing; with it, it must not.

mod frames;
mod host;
mod reach;

use fireclaw_core::render::nft::Egress;
use fireclaw_host::network::Network;

use crate::{
    guest::{Ear, Guest, SERVICE},
    lab::{Lab, guard, network, sysctl},
};

pub(crate) struct Scene {
    pub(crate) a: Guest,
    pub(crate) b: Guest,
    pub(crate) host: Ear,
    pub(crate) internet: Ear,
}

/// Two guests on a host. The scene runs twice: with bridged packets shown to the IP hooks (`br_netfilter` is there) and
/// without.
pub(crate) fn on_stage(play: impl Fn(&Lab, &Scene) + Sync) {
    for bridge_netfilter in ["0", "1"] {
        let lab = Lab::make();
        let (host, internet) = (Ear::at(&lab.host, SERVICE), Ear::at(&lab.internet, SERVICE));
        lab.host.run(|| {
            if std::path::Path::new("/proc/sys/net/bridge").exists() {
                sysctl("bridge/bridge-nf-call-iptables", bridge_netfilter);
            }
            let (a, b) = (Guest::boot("a", [172, 16, 0, 2]), Guest::boot("b", [172, 16, 0, 3]));
            play(&lab, &Scene { a, b, host, internet });
        });
    }
}

pub(crate) fn set_guard(scene: &Scene, guarded: bool) {
    if guarded {
        guard(&[&scene.a.port, &scene.b.port], Egress::Open);
    } else {
        network().remove_firewall().expect("no firewall");
    }
}

/// What is sent, as what frame, and who must not hear it.
pub(crate) type Attack<'a> = (String, Vec<u8>, &'a Ear);

pub(crate) fn none_arrives<'a>(
    scene: &'a Scene,
    attacks: impl Fn(&dyn Fn(&str) -> String) -> Vec<Attack<'a>>,
) {
    none_arrives_by(scene, Egress::Open, &scene.a, attacks);
}

pub(crate) fn none_arrives_by<'a>(
    scene: &'a Scene,
    egress: Egress,
    by: &Guest,
    attacks: impl Fn(&dyn Fn(&str) -> String) -> Vec<Attack<'a>>,
) {
    for guarded in [false, true] {
        set_guard(scene, guarded);
        if guarded && egress != Egress::Open {
            guard(&[&scene.a.port, &scene.b.port], egress);
        }
        // The data tells the attacks apart, and those of one round from the other's.
        for (name, frame, ear) in attacks(&|name| format!("{name} {guarded}")) {
            by.send(&frame);
            let arrived = if guarded { ear.overhears(&name) } else { ear.hears(&name) };
            assert_eq!(arrived, !guarded, "arrived or not: {name}");
        }
    }
}

/// `fd00::/64` and `fd01::/64` of these tests.
pub(crate) fn six(net: u8, host: u8) -> [u8; 16] {
    [0xfd, net, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]
}
