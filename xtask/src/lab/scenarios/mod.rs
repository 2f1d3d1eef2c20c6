//! The scenarios, in the order in which they run. Each begins on a host without instances and need not remove its own.

mod attacks;
mod bash;
mod boot;
mod clone;
mod docker;
mod figures;
mod hibernate;
mod hostile;
mod jailer;
mod neighbours;
mod openclaw;
mod package;
mod reboots;
mod units;
mod upgrade;

use fireclaw_core::error::Result;

use super::host::Lab;

/// What a scenario cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Firecracker,
    /// And Firecracker, which is all that it runs on.
    BashFireclaw,
}

/// One scenario.
pub struct Scenario {
    /// By which it is asked for.
    pub name: &'static str,
    /// Whether its VMs make the VMM a part of the result.
    pub boots_vms: bool,
    /// Beside the lab itself.
    needs: Needs,
    /// Runs with `--all` or by name only; said in the last lines.
    pub long: bool,
    /// Takes the image with OpenClaw, or another large one.
    pub large: bool,
    /// What it does.
    pub run: fn(&mut Lab) -> Result<()>,
}

impl Scenario {
    /// Not in every run.
    const fn long(self) -> Self {
        Self { long: true, ..self }
    }

    /// Why it cannot run here; `None` when it can.
    pub fn unfit(&self, lab: &Lab) -> Option<&'static str> {
        if self.large && !lab.large {
            return Some("there is no image with OpenClaw: `cargo xtask e2e` makes one");
        }
        if self.needs != Needs::Nothing && lab.vmm != "firecracker" {
            return Some("is about Firecracker: FIRECRACKER_BIN and JAILER_BIN name it");
        }
        if self.needs == Needs::BashFireclaw && lab.bash_fireclaw.is_none() {
            return Some("runs the Bash fireclaw itself: BASH_FIRECLAW names its folder");
        }
        None
    }
}

const fn scenario(name: &'static str, run: fn(&mut Lab) -> Result<()>) -> Scenario {
    Scenario { name, boots_vms: true, needs: Needs::Nothing, long: false, large: false, run }
}

/// With the large images; not in every run.
const fn large(name: &'static str, run: fn(&mut Lab) -> Result<()>) -> Scenario {
    Scenario { large: true, long: true, ..scenario(name, run) }
}

const fn host_only(name: &'static str, run: fn(&mut Lab) -> Result<()>) -> Scenario {
    Scenario { boots_vms: false, ..scenario(name, run) }
}

const fn firecracker(name: &'static str, run: fn(&mut Lab) -> Result<()>) -> Scenario {
    Scenario { needs: Needs::Firecracker, ..scenario(name, run) }
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    vec![
        host_only("boot", boot::boot),
        firecracker("jailer", jailer::jailer),
        scenario("the units", units::units),
        scenario("the Debian package", package::debian),
        large("the npm package", package::npm),
        scenario("reboot and power cut", reboots::host),
        scenario("clone", clone::side_by_side).long(),
        scenario("reboot in the guest", reboots::guest).long(),
        scenario("power-off in the guest", reboots::guest_off).long(),
        firecracker("hibernate", hibernate::hibernate).long(),
        firecracker("hibernate without systemd", hibernate::embedded).long(),
        scenario("docker beside it", neighbours::docker),
        scenario("ufw", neighbours::ufw).long(),
        scenario("firewalld", neighbours::firewalld).long(),
        scenario("br_netfilter", neighbours::br_netfilter).long(),
        host_only("a foreign bridge", neighbours::foreign_bridge),
        host_only("a subnet routed elsewhere", neighbours::routed_subnet),
        firecracker("taking over from Bash", bash::takes_over).long(),
        Scenario { needs: Needs::BashFireclaw, ..large("the Bash fireclaw itself", bash::the_real_one) },
        scenario("upgrade of fireclaw", upgrade::binary).long(),
        firecracker("figures", figures::figures).long(),
        scenario("a hostile neighbour", hostile::neighbour).long(),
        scenario("attacks from a guest", attacks::from_inside).long(),
        large("a real OpenClaw", openclaw::native),
        large("OpenClaw in Docker", docker::runtime),
        large("a stock root filesystem", docker::stock),
        scenario("sixteen at once", upgrade::sixteen).long(),
    ]
}
