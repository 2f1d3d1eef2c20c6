//! What a command is going to do, as a value: steps in order, each with its inverse. Touches nothing.
//!
//! The same list serves apply, undo, crash recovery, `destroy` and `--dry-run`. The engine in the command line carries it
//! out; see its module for the states.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::InstanceId;

/// The command that a plan belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// `setup`
    Setup,
    /// `provision`
    Provision,
    /// `start`
    Start,
    /// `stop`
    Stop,
    /// `restart`
    Restart,
    /// `destroy`
    Destroy,
    /// `clone`
    Clone,
    /// `hibernate`
    Hibernate,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "setup",
            Self::Provision => "provision",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Destroy => "destroy",
            Self::Clone => "clone",
            Self::Hibernate => "hibernate",
        })
    }
}

/// One thing that is done to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Write the record: from here on addresses are taken. Inverse: remove the state folder.
    SaveRecord,
    /// Make `FC_ROOT/ID`. Inverse: remove it with all in it.
    MakeFolders,
    /// Put kernel and initrd in place and make the root disk. Inverse: that of the folders.
    CreateDisk,
    /// Write the seed with host keys, and pin them. Inverse: that of the folders.
    WriteSeed,
    /// Make the two services known to the supervisor. Inverse: stop and forget them.
    InstallServices,
    /// Bridge and firewall rules. Inverse: the rules without this VM; the bridge goes with the last instance.
    JoinNetwork,
    /// Start the VM. Inverse: stop it at once and clean up after it.
    StartVm,
    /// Wait for an SSH login.
    AwaitLogin,
    /// Put this fireclaw into the guest where another version is there.
    InstallAgent,
    /// Configure and start OpenClaw in the guest.
    ProvisionGuest,
    /// Remember that the guest was provisioned.
    MarkProvisioned,
    /// Start the proxy. Inverse: stop it.
    StartProxy,
    /// Wait for the start gate in the guest and through the proxy.
    AwaitGates,
    /// Write changed settings beside the record. Inverse: drop them.
    StageSettings,
    /// Put the staged settings into the record.
    CommitSettings,
    /// Stop the proxy.
    StopProxy,
    /// Let the gateway finish what it is doing and stop it.
    StopGateway,
    /// Shut the VM down.
    StopVm,
    /// Keep the base, kernel and initrd of another instance, and copy the disk that it wrote. Inverse: that of the folders.
    CopyDisk,
    /// Make the copied disk another guest's before it ever boots. Inverse: that of the folders.
    RenewIdentity,
    /// Let the guest write out what it holds back.
    SyncGuest,
    /// Pause the VM and write its memory down. Inverse: drop what was written and let it run on.
    SaveMemory,
    /// End the VMM of a VM that is paused and written down.
    EndVm,
    /// A proxy that wakes the instance begins anew; another is stopped.
    SettleProxy,
}

impl Step {
    /// The step in a few words, for progress, journal and plan.
    pub const fn title(self) -> &'static str {
        match self {
            Self::SaveRecord => "save record",
            Self::MakeFolders => "make folders",
            Self::CreateDisk => "create disk",
            Self::WriteSeed => "write seed",
            Self::InstallServices => "install services",
            Self::JoinNetwork => "join network",
            Self::StartVm => "start VM",
            Self::AwaitLogin => "wait for SSH login",
            Self::InstallAgent => "install guest agent",
            Self::ProvisionGuest => "provision guest",
            Self::MarkProvisioned => "mark provisioned",
            Self::StartProxy => "start proxy",
            Self::AwaitGates => "wait for the gateway",
            Self::StageSettings => "stage settings",
            Self::CommitSettings => "commit settings",
            Self::StopProxy => "stop proxy",
            Self::StopGateway => "stop gateway",
            Self::StopVm => "stop VM",
            Self::CopyDisk => "copy disk",
            Self::RenewIdentity => "renew identity",
            Self::SyncGuest => "sync guest",
            Self::SaveMemory => "save memory",
            Self::EndVm => "end VM",
            Self::SettleProxy => "settle proxy",
        }
    }

    /// The inverse in a few words; `None` when there is nothing to undo.
    pub const fn undo_title(self) -> Option<&'static str> {
        match self {
            Self::SaveRecord => Some("remove record"),
            Self::MakeFolders => Some("remove folders"),
            Self::InstallServices => Some("remove services"),
            Self::JoinNetwork => Some("leave network"),
            Self::StartVm => Some("stop VM at once"),
            Self::StartProxy => Some("stop proxy"),
            Self::StageSettings => Some("drop staged settings"),
            Self::SaveMemory => Some("let VM run on"),
            _ => None,
        }
    }
}

/// Forwards or backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Carry the step out.
    Apply,
    /// Carry its inverse out.
    Undo,
}

/// One step in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// What.
    pub step: Step,
    /// Which way.
    pub direction: Direction,
}

impl Action {
    const fn apply(step: Step) -> Self {
        Self { step, direction: Direction::Apply }
    }

    /// The action in a few words.
    pub fn title(self) -> &'static str {
        match self.direction {
            Direction::Apply => self.step.title(),
            Direction::Undo => self.step.undo_title().unwrap_or("nothing to undo"),
        }
    }
}

/// A command's steps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The command.
    pub operation: Operation,
    /// The instance.
    pub id: InstanceId,
    /// The steps in order.
    pub actions: Vec<Action>,
    /// When this step is done a failure keeps what is there; before it a failure undoes all. `None`: nothing is ever
    /// undone.
    pub commit: Option<Step>,
}

/// The steps of `setup`, and in reverse those of `destroy`.
const SETUP: [Step; 13] = [
    Step::SaveRecord,
    Step::MakeFolders,
    Step::CreateDisk,
    Step::WriteSeed,
    Step::InstallServices,
    Step::JoinNetwork,
    Step::StartVm,
    Step::AwaitLogin,
    Step::InstallAgent,
    Step::ProvisionGuest,
    Step::MarkProvisioned,
    Step::StartProxy,
    Step::AwaitGates,
];

impl Plan {
    fn of(operation: Operation, id: &InstanceId, steps: &[Step], commit: Option<Step>) -> Self {
        let actions = steps.iter().copied().map(Action::apply).collect();
        Self { operation, id: id.clone(), actions, commit }
    }

    /// Create, boot, provision, and see it healthy.
    pub fn setup(id: &InstanceId) -> Self {
        Self::of(Operation::Setup, id, &SETUP, Some(Step::MarkProvisioned))
    }

    /// As `setup`, with the disk of another instance. What it leaves is what `setup` leaves.
    pub fn clone_to(id: &InstanceId) -> Self {
        let steps: Vec<Step> = SETUP
            .into_iter()
            .flat_map(|step| match step {
                Step::CreateDisk => vec![Step::CopyDisk, Step::RenewIdentity],
                other => vec![other],
            })
            .collect();
        Self::of(Operation::Clone, id, &steps, Some(Step::MarkProvisioned))
    }

    /// Change settings and provision again.
    pub fn provision(id: &InstanceId) -> Self {
        let steps = [
            Step::StageSettings,
            Step::AwaitLogin,
            Step::InstallAgent,
            Step::ProvisionGuest,
            Step::CommitSettings,
            Step::StartProxy,
            Step::AwaitGates,
        ];
        Self::of(Operation::Provision, id, &steps, Some(Step::CommitSettings))
    }

    /// Boot, and see it healthy.
    pub fn start(id: &InstanceId) -> Self {
        let steps = [
            Step::InstallServices,
            Step::JoinNetwork,
            Step::StartVm,
            Step::AwaitLogin,
            Step::StartProxy,
            Step::AwaitGates,
        ];
        Self::of(Operation::Start, id, &steps, None)
    }

    /// Proxy, gateway, VM, in this order.
    pub fn stop(id: &InstanceId) -> Self {
        Self::of(Operation::Stop, id, &[Step::StopProxy, Step::StopGateway, Step::StopVm], None)
    }

    /// Memory to disk, VM away. Once the memory is written it is kept: what is left to do then is to end a VM that is paused.
    pub fn hibernate(id: &InstanceId) -> Self {
        let steps = [Step::SyncGuest, Step::SaveMemory, Step::EndVm, Step::SettleProxy];
        Self::of(Operation::Hibernate, id, &steps, Some(Step::SaveMemory))
    }

    /// The same for a proxy that asked for it and stays.
    pub fn doze(id: &InstanceId) -> Self {
        let steps = [Step::SyncGuest, Step::SaveMemory, Step::EndVm];
        Self::of(Operation::Hibernate, id, &steps, Some(Step::SaveMemory))
    }

    /// What a proxy with a waiting client needs: the VM, and nothing more.
    pub fn wake(id: &InstanceId) -> Self {
        Self::of(Operation::Start, id, &[Step::StartVm], None)
    }

    /// Stop, then start.
    pub fn restart(id: &InstanceId) -> Self {
        let mut plan = Self::stop(id);
        plan.operation = Operation::Restart;
        plan.actions.extend(Self::start(id).actions);
        plan
    }

    /// Everything that `setup` made, backwards.
    pub fn destroy(id: &InstanceId) -> Self {
        let actions = Self::inverses(Self::setup(id).actions.iter());
        Self { operation: Operation::Destroy, id: id.clone(), actions, commit: None }
    }

    /// The inverses of actions, last first.
    pub fn inverses<'a>(actions: impl DoubleEndedIterator<Item = &'a Action>) -> Vec<Action> {
        actions
            .rev()
            .filter(|action| action.direction == Direction::Apply && action.step.undo_title().is_some())
            .map(|action| Action { step: action.step, direction: Direction::Undo })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn id() -> InstanceId {
        "my-bot".parse().unwrap()
    }

    #[test]
    fn the_plans_are_pinned() {
        let mut text = String::new();
        for plan in [
            Plan::setup(&id()),
            Plan::provision(&id()),
            Plan::start(&id()),
            Plan::stop(&id()),
            Plan::restart(&id()),
            Plan::destroy(&id()),
            Plan::clone_to(&id()),
            Plan::hibernate(&id()),
            Plan::doze(&id()),
            Plan::wake(&id()),
        ] {
            let titles: Vec<&str> = plan.actions.iter().map(|action| action.title()).collect();
            text.push_str(&format!("{}: {}\n", plan.operation, titles.join(" > ")));
        }
        insta::assert_snapshot!(text);
    }

    /// What a step leaves on the host, in words, and what its inverse takes away.
    fn made(step: Step) -> &'static [&'static str] {
        match step {
            Step::SaveRecord => &["record"],
            Step::MakeFolders | Step::CreateDisk | Step::CopyDisk | Step::RenewIdentity | Step::WriteSeed => {
                &["folders"]
            }
            Step::InstallServices => &["services"],
            Step::JoinNetwork => &["rules"],
            Step::StartVm => &["vm", "tap"],
            Step::StartProxy => &["proxy"],
            _ => &[],
        }
    }

    proptest::proptest! {
        #[test]
        fn any_prefix_of_what_makes_an_instance_undone_leaves_nothing(length in 0..=SETUP.len() + 1, clone: bool) {
            let plan = if clone { Plan::clone_to(&id()) } else { Plan::setup(&id()) };
            let prefix = &plan.actions[..length.min(plan.actions.len())];
            let mut there: BTreeSet<&str> = prefix.iter().flat_map(|action| made(action.step)).copied().collect();
            for action in Plan::inverses(prefix.iter()) {
                for thing in made(action.step) {
                    there.remove(thing);
                }
            }
            proptest::prop_assert!(there.is_empty(), "{:?}", there);
        }
    }
}
