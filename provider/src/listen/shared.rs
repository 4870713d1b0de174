//! What the boot services have in common with the rest of the provider: counters, the policy, and what is shown.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use boot_manifest::Channel;
use pxe::Mac;
use pxe::boot::{Offer, Plan};
use pxe::client::{Client, Firmware};
use pxe::dhcp6;
use pxe::strategy::{Answer, Transfer};
use serde_json::{Value, json};

use crate::listen::args::DhcpMode;
use crate::listen::desk::Place;
use crate::listen::metrics::{BootMetrics, Fate};
use crate::serve::metrics::get;

/// Something that TFTP or HTTP saw, which says whether an answer was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint {
    /// Whose it is.
    pub(crate) mac: Mac,
    /// How far it came.
    pub(crate) transfer: Transfer,
}

/// What is known outside of the task that answers.
#[derive(Debug)]
pub(crate) struct Shared {
    /// How machines are answered.
    pub(crate) mode: DhcpMode,
    /// Why that is not what it could be.
    pub(crate) note: Option<String>,
    /// What is counted.
    pub(crate) metrics: Arc<BootMetrics>,
    /// The channel that is offered.
    pub(crate) channel: Channel,
    /// The port of plain HTTP.
    pub(crate) port: u16,
}

impl Shared {
    /// What a machine is to be given.
    pub(super) fn plan(&self, client: &Client, place: &Place) -> Plan {
        self.plan_at(client, place.server.into())
    }

    /// What a machine is to be given that reaches us at this address.
    pub(super) fn plan_at(&self, client: &Client, server: IpAddr) -> Plan {
        let Some(arch) = client.arch.folder() else {
            return Plan::Silence(pxe::boot::Reason::NothingToBoot);
        };
        let at = format!("http://{}", SocketAddr::new(server, self.port));
        let folder = format!("{at}/{}/{arch}", self.channel);
        let file = match client.firmware {
            Firmware::BiosPxe | Firmware::RaspberryPi => "undionly.kpxe",
            _ => "phase.efi",
        };
        Plan::Netboot(Offer {
            tftp_file: Some(file.to_owned()),
            http_url: Some(format!("{folder}/phase.efi")),
            script_url: Some(format!("{at}/boot.ipxe?mac={}", client.mac)),
            manifest_url: Some(format!("{folder}/manifest.json")),
            ..Offer::default()
        })
    }

    /// A client was answered.
    pub(super) fn answered(&self, client: &Client, place: &Place, answer: &Answer) {
        tracing::info!(
            mac = %client.mac, firmware = client.firmware.name(), arch = %client.arch, interface = place.interface,
            strategy = answer.strategy, file = answer.reply.file, arrival = ?place.arrival, "boot offered"
        );
    }

    /// A client was answered over DHCPv6.
    pub(super) fn told(&self, client: &Client, link: &str, reply: &dhcp6::Reply) {
        tracing::info!(
            mac = %client.mac, firmware = client.firmware.name(), arch = %client.arch, interface = link,
            file = reply.boot_url(), address = ?reply.address(), answer = reply.kind.name(), "boot offered over IPv6"
        );
    }

    /// A client was not answered.
    pub(super) fn not_answered(&self, client: &Client, place: &Place, why: &'static str) {
        tracing::debug!(mac = %client.mac, interface = place.interface, why, "not answered");
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
        Some(format!(
            "every machine of this network that boots from it is answered {how}{note}; --dhcp off ends that"
        ))
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
        })
    }
}
