//! What the boot services have in common with the rest of the provider: counters, the policy, and what is shown.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use pxe::Mac;
use pxe::boot::Plan;
use pxe::client::Client;
use pxe::dhcp6;
use pxe::strategy::{Answer, Arrival};
use serde_json::{Value, json};

use crate::listen::args::DhcpMode;
use crate::listen::desk::Place;
use crate::listen::metrics::{BootMetrics, Fate};
use crate::log::Lines;
use crate::machines::event::{Event, Via};
use crate::machines::{Heard, Machines, Only};
use crate::serve::metrics::get;

/// Something that TFTP or HTTP saw, which says whether an answer was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    /// Whose it is.
    pub(crate) mac: Mac,
    /// What happened.
    pub(crate) heard: Heard,
}

/// What is known outside of the task that answers.
pub(crate) struct Shared {
    /// How machines are answered.
    pub(crate) mode: DhcpMode,
    /// Why that is not what it could be.
    pub(crate) note: Option<String>,
    /// What is counted.
    pub(crate) metrics: Arc<BootMetrics>,
    /// Who boots what.
    pub(crate) machines: Arc<Machines>,
    /// How many offers are logged.
    pub(crate) lines: Lines,
    /// How many answers that could not be sent are logged.
    pub(crate) unsent: Lines,
}

impl Shared {
    /// What a machine is to be given.
    pub(super) fn plan(&self, client: &Client, place: &Place) -> Plan {
        let via = Via {
            server: place.server.into(),
            interface: place.interface.clone(),
            relay: place.relay.map(IpAddr::from),
        };
        let is_own_address = place.relay.is_none() && !place.peer.ip().is_unspecified();
        let plan = self.machines.plan(client, &via);
        if is_own_address {
            let address = IpAddr::from(*place.peer.ip());
            self.machines.note(client.mac, Event::AddressSeen(address));
        }
        plan
    }

    /// What a machine is to be given that asks over IPv6, and reaches us at this address.
    pub(super) fn plan_at(&self, client: &Client, server: IpAddr, link: &str) -> Plan {
        let via = Via {
            server,
            interface: link.to_owned(),
            relay: None,
        };
        self.machines.plan(client, &via)
    }

    /// A client was answered.
    pub(super) fn answered(&self, client: &Client, place: &Place, answer: &Answer) {
        if self.lines.may_tell(Instant::now()) {
            tracing::info!(
                mac = %client.mac, firmware = client.firmware.name(), arch = %client.arch, interface = place.interface,
                strategy = answer.strategy, file = answer.reply.file, arrival = ?place.arrival, "boot offered"
            );
        }
        let strategy = answer.strategy;
        let file = answer.reply.file.clone();
        self.machines.note(
            client.mac,
            match place.arrival {
                Arrival::Port67 => Event::Offered { strategy, file },
                Arrival::Port4011 => Event::BinlAnswered { strategy, file },
            },
        );
    }

    /// The kernel did not take an answer. Forged questions have answers that go nowhere.
    pub(super) fn not_sent(&self, to: SocketAddr, error: &io::Error) {
        self.metrics.count(Fate::Unsent);
        if self.unsent.may_tell(Instant::now()) {
            tracing::warn!(%to, %error, "an answer could not be sent");
        }
    }

    /// A client has an address of ours.
    pub(super) fn given(&self, client: &Client, address: Ipv4Addr) {
        self.machines.note(client.mac, Event::LeaseGiven(address));
    }

    /// A client was answered over DHCPv6.
    pub(super) fn told(&self, client: &Client, link: &str, reply: &dhcp6::Reply) {
        if self.lines.may_tell(Instant::now()) {
            tracing::info!(
                mac = %client.mac, firmware = client.firmware.name(), arch = %client.arch, interface = link,
                file = reply.boot_url(), address = ?reply.address(), answer = reply.kind.name(), "boot offered over IPv6"
            );
        }
        let strategy = "DHCPv6";
        let file = reply.boot_url().map(str::to_owned);
        let machines = &self.machines;
        machines.note(client.mac, Event::Offered { strategy, file });
        if let Some(address) = reply.address() {
            machines.note(client.mac, Event::AddressSeen(address.into()));
        }
    }

    /// A client was not answered.
    pub(super) fn not_answered(&self, client: &Client, place: &Place, why: &'static str) {
        tracing::debug!(mac = %client.mac, interface = place.interface, why, "not answered");
        self.machines
            .note(client.mac, Event::NotAnswered(why.to_owned()));
    }

    /// Who is answered, and how, in one line; or why nobody is.
    pub(crate) fn summary(&self) -> Option<String> {
        let how = match self.mode {
            DhcpMode::Off => {
                return self.note.as_ref().map(|note| {
                    format!("machines that boot from the network are not answered: {note}")
                });
            }
            DhcpMode::Proxy => "beside its DHCP server (ports 67 and 4011)",
            DhcpMode::Binl => "at port 4011 only",
            DhcpMode::Server => "with addresses, as its DHCP server (ports 67 and 4011)",
        };
        let note = self
            .note
            .as_ref()
            .map_or(String::new(), |note| format!("; {note}"));
        let who = match self.machines.only() {
            Only::All => "every machine of this network that boots from it is answered",
            Only::Known => {
                "machines of this network that boot from it are answered once they are known (plasmd clients allow MAC),"
            }
        };
        Some(format!("{who} {how}{note}; --dhcp off ends that"))
    }

    /// As `/status` shows it.
    pub(crate) fn facts(&self) -> Value {
        let fates: serde_json::Map<String, Value> = Fate::ALL
            .iter()
            .map(|fate| (fate.label().to_owned(), json!(self.metrics.total(*fate))))
            .collect();
        json!({
            "dhcp": self.mode.as_str(),
            "note": self.note,
            "datagrams": fates,
            "conflicts_total": get(&self.metrics.conflicts_total),
            "rivals_total": get(&self.metrics.rivals_total),
            "leases": get(&self.metrics.leases),
        })
    }
}
