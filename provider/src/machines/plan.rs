//! A machine asks: what it is given, and what is remembered of the question. DHCP and the iPXE script come here; the
//! decision itself is [`policy`].

use std::time::SystemTime;

use boot_manifest::Arch;
use pxe::Mac;
use pxe::boot::{Plan, Reason};
use pxe::client::{Client, Firmware};

use crate::machines::event::{Stage, Via};
use crate::machines::limits::BOOT_GAP;
use crate::machines::orders::{Order, Way};
use crate::machines::policy::{self, Case, Local, Place, Verdict};
use crate::machines::profiles::{InForce, Subject};
use crate::machines::record::{Asker, Facts, Quiet, Told};
use crate::machines::{Inner, Machines, Only, show, vendor};

/// What is to be looked at when a machine asks.
#[derive(Debug)]
pub(super) struct Known {
    /// What the configuration says.
    pub(super) in_force: InForce,
    /// What was decided by command.
    pub(super) order: Order,
    /// Boots in a row that were never heard of again.
    mute_boots: u32,
}

impl Machines {
    /// What a machine that asks is given. Notes that it asked, too.
    pub(crate) fn plan(&self, client: &Client, via: &Via) -> Plan {
        self.plan_at(client, via, SystemTime::now())
    }

    pub(super) fn plan_at(&self, client: &Client, via: &Via, now: SystemTime) -> Plan {
        let arch: Option<Arch> = client.arch.folder().and_then(|folder| folder.parse().ok());
        let known = self.heard_question(client, via, arch, now);
        let Some(arch) = arch else {
            let why = format!("there are no files for {}", client.arch);
            return self.silence(client.mac, Quiet::Cannot(why), now);
        };
        let is_linux = client.firmware == Firmware::Phase;
        let channel = match self.decide(&known, arch, is_linux) {
            Verdict::Nothing(quiet) => return self.silence(client.mac, quiet, now),
            Verdict::LocalDisk(why) => {
                self.tell_local(client.mac, why, now);
                return Plan::LocalDisk;
            }
            Verdict::Network(channel) => channel,
        };
        let place = Place {
            mac: client.mac,
            channel: &channel,
            arch,
            server: via.server,
            port: self.setup.port,
        };
        let folder = self.shelf.folder(&channel, arch);
        let in_force = &known.in_force;
        match policy::offer(&self.shelf, &folder, in_force, client.firmware, &place) {
            Ok(offer) => {
                self.tell(client.mac, Told::Network, now);
                Plan::Netboot(offer)
            }
            Err(why) => {
                let why = folder.problem.clone().unwrap_or(why);
                self.silence(client.mac, Quiet::Cannot(why), now)
            }
        }
    }

    /// Remembers a question over DHCP.
    fn heard_question(
        &self,
        client: &Client,
        via: &Via,
        arch: Option<Arch>,
        now: SystemTime,
    ) -> Known {
        let asker = match client.firmware {
            Firmware::Phase => Asker::Linux,
            Firmware::Ipxe { .. } => Asker::Ipxe,
            _ => Asker::Firmware,
        };
        let mut inner = self.lock_for_machine();
        let machine = inner.table.machine(client.mac, now);
        let is_new = machine.asked(asker, now);
        // What the machine itself has, not what was started on it.
        let is_own = asker == Asker::Firmware || is_new || machine.facts.firmware.is_none();
        machine.facts.learn(Facts {
            firmware: is_own.then(|| client.firmware.name().to_owned()),
            arch: is_own.then(|| client.arch.to_string()),
            class: is_own.then(|| client.class.clone()),
            uuid: client.uuid.map(show::uuid),
            interface: Some(via.interface.clone()),
            relay: via.relay,
            ..Facts::default()
        });
        if is_new {
            inner.counts.begin();
            if self.may_log() {
                tracing::info!(
                    mac = %client.mac, firmware = client.firmware.name(), interface = via.interface, "a machine boots"
                );
            }
        }
        inner.counts.reach(Stage::Discover, is_new);
        self.known(&mut inner, client.mac, arch, now)
    }

    /// Remembers that the iPXE of a machine asks for its script. `facts` are what it says; the firmware among them counts
    /// only where nothing better is known.
    pub(super) fn heard_ipxe(
        &self,
        mac: Mac,
        arch: Option<Arch>,
        mut facts: Facts,
        now: SystemTime,
    ) -> Known {
        let mut inner = self.lock_for_machine();
        let machine = inner.table.machine(mac, now);
        let is_new = machine.asked(Asker::Ipxe, now);
        if machine.facts.firmware.is_some() {
            facts.firmware = None;
        }
        machine.facts.learn(facts);
        if is_new {
            inner.counts.begin();
        }
        self.known(&mut inner, mac, arch, now)
    }

    /// Decides with what is known.
    pub(super) fn decide(&self, known: &Known, arch: Arch, is_linux: bool) -> Verdict {
        let case = Case {
            order: &known.order,
            in_force: &known.in_force,
            only_known: self.setup.only == Only::Known,
            mute_boots: known.mute_boots,
            is_linux,
        };
        policy::decide(&case, &self.setup.channel, arch, |channel| {
            self.shelf.folder(channel, arch)
        })
    }

    /// What is known of a machine that asks just now.
    fn known(&self, inner: &mut Inner, mac: Mac, arch: Option<Arch>, now: SystemTime) -> Known {
        self.end_disk_boot(inner, mac, now);
        let (in_force, order) = inner.in_force(mac, arch);
        let machine = inner.table.get(mac);
        Known {
            in_force,
            order,
            mute_boots: machine.map_or(0, |machine| machine.mute_boots(now)),
        }
    }

    /// One boot from the disk is over when the next one begins. Who told the machine may have been restarted since: then the
    /// time tells the boots apart.
    fn end_disk_boot(&self, inner: &mut Inner, mac: Mac, now: SystemTime) {
        let told = inner.orders.get(mac).and_then(Order::disk_boot_told);
        let Some(machine) = inner.table.get_mut(mac) else {
            return;
        };
        let is_over = match machine.local_once {
            Some(boot) => boot != machine.boots,
            None => told.is_some_and(|told| {
                now.duration_since(told)
                    .is_ok_and(|passed| passed > BOOT_GAP)
            }),
        };
        if !is_over {
            return;
        }
        machine.local_once = None;
        let ended = inner.orders.change(mac, |order| {
            order.once.take_if(|once| once.way == Way::Local);
        });
        if ended == Ok(true) {
            self.changed(inner);
        }
    }

    fn silence(&self, mac: Mac, quiet: Quiet, now: SystemTime) -> Plan {
        let reason = match quiet {
            Quiet::Denied => Reason::Denied,
            Quiet::Unknown => Reason::Unknown,
            Quiet::Cannot(_) => Reason::NothingToBoot,
        };
        self.tell(mac, Told::Nothing(quiet), now);
        Plan::Silence(reason)
    }

    /// Remembers what a machine is told, and logs it when it is something else than before.
    pub(super) fn tell(&self, mac: Mac, told: Told, now: SystemTime) {
        let mut inner = self.lock();
        let machine = inner.table.machine(mac, now);
        if machine.told.as_ref() == Some(&told) {
            return;
        }
        if self.may_log() {
            match &told {
                Told::Nothing(Quiet::Unknown) => tracing::info!(
                    %mac, "a machine waits to be allowed: `plasmd clients allow {mac}`"
                ),
                Told::Nothing(Quiet::Denied) => {
                    tracing::info!(%mac, "not answered: it is denied");
                }
                Told::Nothing(Quiet::Cannot(why)) => tracing::warn!(%mac, why, "not answered"),
                Told::LocalDisk | Told::Network => {}
            }
        }
        machine.told = Some(told);
    }

    /// The same for one that is sent to its disk.
    pub(super) fn tell_local(&self, mac: Mac, why: Local, now: SystemTime) {
        let mut inner = self.lock();
        let machine = inner.table.machine(mac, now);
        let boots = machine.boots;
        machine.local_once = (why == Local::Once).then_some(boots);
        let is_new = machine.told != Some(Told::LocalDisk);
        machine.told = Some(Told::LocalDisk);
        if is_new && self.may_log() {
            tracing::info!(%mac, "local disk: {}", why.text());
        }
        if why == Local::Once {
            let noted = inner.orders.change(mac, |order| order.tell_disk_boot(now));
            if noted == Ok(true) {
                self.changed(&mut inner);
            }
        }
    }
}

impl Inner {
    /// What is in force for a machine, and what was decided about it.
    pub(super) fn in_force(&self, mac: Mac, arch: Option<Arch>) -> (InForce, Order) {
        let order = self.orders.get(mac).cloned().unwrap_or_default();
        let nothing = Facts::default();
        let subject = Subject {
            mac,
            maker: vendor::maker(mac),
            facts: self
                .table
                .get(mac)
                .map_or(&nothing, |machine| &machine.facts),
            arch,
        };
        let in_force = self.profiles.of(&subject, order.profile.as_deref());
        (in_force, order)
    }
}
