//! What the scenes of network boot have in common: the four ways in which a boot server stands among the
//! other servers of a LAN, and the way of one machine from power-on until it serves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu_tests::lan::{Dhcp, LanSpec};
use qemu_tests::machine::Serving;
use qemu_tests::provider::Settings;
use qemu_tests::{Journey, Lan, Machine, Provider, Recorder, Spec, Story};

use crate::BOOT_LIMIT;
use crate::people::serves_the_signed_manifest;

/// Firmware, its DHCP with all retries, its boot file and the kernel: on a busy host under emulation.
pub(crate) const FIRMWARE_LIMIT: Duration = Duration::from_secs(150);

/// What firmware says when it has tried everything, or a kernel that cannot go on.
pub(crate) const FRUITLESS: &[&str] = &["No bootable device", "Kernel panic", "phase: fatal:"];

/// How the boot server stands among the other servers of a LAN: a column of the README's table.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The column's name.
    pub(crate) column: &'static str,
    dhcp: Dhcp,
    /// The machines' IPv6 addresses come from the router by DHCPv6, and it leads HTTP boot over IPv4 astray,
    /// which firmware tries first.
    is_ipv6: bool,
    flags: &'static [&'static str],
}

/// A router gives addresses, the boot server only boot files: the default.
pub(crate) const BESIDE_A_ROUTER: Place = Place {
    column: "beside a router",
    dhcp: Dhcp::Router,
    is_ipv6: false,
    flags: &["--dhcp", "proxy"],
};
/// There is no other DHCP server.
pub(crate) const ALONE: Place = Place {
    column: "alone",
    dhcp: Dhcp::Nobody,
    is_ipv6: false,
    flags: &[
        "--dhcp",
        "server",
        "--dhcp-range",
        "10.77.0.100-10.77.0.199/24,2m",
    ],
};
/// DHCP server and boot server are in another segment.
pub(crate) const BEHIND_A_RELAY: Place = Place {
    column: "behind a relay",
    dhcp: Dhcp::BehindRelay,
    is_ipv6: false,
    flags: &["--dhcp", "proxy"],
};
/// A DHCP server on the same host sends the machines to port 4011.
pub(crate) const AT_PORT_4011: Place = Place {
    column: "at port 4011",
    dhcp: Dhcp::BesideBootServer,
    is_ipv6: false,
    flags: &["--dhcp", "binl"],
};
/// A router gives addresses over IPv6 too.
pub(crate) const BESIDE_AN_IPV6_ROUTER: Place = Place {
    is_ipv6: true,
    flags: &["--dhcp", "proxy", "--bind", "::"],
    ..BESIDE_A_ROUTER
};
/// The only DHCP server, of both kinds.
pub(crate) const ALONE_WITH_IPV6: Place = Place {
    flags: &[
        "--dhcp",
        "server",
        "--dhcp-range",
        "10.77.0.100-10.77.0.199/24,2m",
        "--bind",
        "::",
    ],
    ..ALONE
};

impl Place {
    /// What the LAN is made of. Somebody answers the machines' question for an IPv6 router, as in most
    /// LANs: iPXE waits thirteen seconds for nothing otherwise, whatever boot server there is.
    pub(crate) fn lan(self) -> LanSpec {
        LanSpec {
            dhcp: self.dhcp,
            router: true,
            dhcp6: self.is_ipv6,
            dead_http: self.is_ipv6,
            ..LanSpec::default()
        }
    }

    /// How the boot server is started.
    pub(crate) fn settings(self) -> Settings {
        Settings::flags(self.flags)
    }
}

/// A LAN with a boot server on it, and a recording of what they say.
pub(crate) struct Scenery {
    pub(crate) lan: Lan,
    pub(crate) recorder: Recorder,
    _behind_relay: Option<Recorder>,
    pub(crate) provider: Provider,
}

impl Scenery {
    /// The LAN of `place` with a boot server.
    pub(crate) fn new(story: &Story, place: Place) -> Result<Self> {
        Self::with(story, place, &place.settings())
    }

    /// The same with a boot server that is started otherwise.
    pub(crate) fn with(story: &Story, place: Place, settings: &Settings) -> Result<Self> {
        let lan = story.lan_with(place.lan())?;
        let recorder = Recorder::start(&lan)?;
        let behind_relay = match place.dhcp {
            Dhcp::BehindRelay => Some(Recorder::behind_relay(&lan)?),
            Dhcp::Router | Dhcp::Nobody | Dhcp::BesideBootServer => None,
        };
        let provider = Provider::start(&lan, story.images()?, settings)?;
        story.note(format!("plasmd serves at {}", provider.url()));
        Ok(Self {
            lan,
            recorder,
            _behind_relay: behind_relay,
            provider,
        })
    }

    /// Boots a machine from the network until it serves the same bytes, and writes its journey as a cell
    /// of the README's table.
    pub(crate) fn serves_in_the_end(
        &self,
        story: &Story,
        row: &'static str,
        column: &'static str,
        spec: &Spec,
    ) -> Result<Machine> {
        let machine = story.boot(&self.lan, "a", 1, spec)?;
        self.goes_on(story, &machine, row, column)?;
        Ok(machine)
    }

    /// The same of a machine whose firmware already runs.
    pub(crate) fn goes_on(
        &self,
        story: &Story,
        machine: &Machine,
        row: &'static str,
        column: &'static str,
    ) -> Result<()> {
        let at = becomes_a_provider(story, machine, row, column)?;
        serves_the_signed_manifest(&self.lan, story.images()?, &at)
    }
}

/// Waits until a machine that has just been switched on has booted from the network and serves; writes its
/// journey.
pub(crate) fn becomes_a_provider(
    story: &Story,
    machine: &Machine,
    row: &'static str,
    column: &'static str,
) -> Result<Serving> {
    let mut journey = Journey::new(row, column, machine.powered_on());
    let line = machine.wait_for_unless("phase: init ", FRUITLESS, FIRMWARE_LIMIT)?;
    journey.reached("kernel", line.at);
    for (stage, said, limit) in [
        ("verified", "phase: kexec into sha256:", BOOT_LIMIT),
        ("mounted", "phase: mounted", BOOT_LIMIT),
    ] {
        let line = machine.wait_for(said, limit)?;
        journey.reached(stage, line.at);
    }
    let (line, at) = machine.serving_line(BOOT_LIMIT)?;
    journey.reached("serving", line.at);
    journey.write(story.logs())?;
    Ok(at)
}

/// Waits until a machine that has just been switched on has found its stick or disk and serves; writes its
/// journey.
pub(crate) fn serves_from_disk(
    story: &Story,
    machine: &Machine,
    row: &'static str,
) -> Result<Serving> {
    let mut journey = Journey::new(row, BESIDE_A_ROUTER.column, machine.powered_on());
    let line = machine.wait_for_unless("phase: init ", FRUITLESS, FIRMWARE_LIMIT)?;
    journey.reached("kernel", line.at);
    let line = machine.wait_for("phase: mounted", BOOT_LIMIT)?;
    journey.reached("mounted", line.at);
    let (line, at) = machine.serving_line(BOOT_LIMIT)?;
    journey.reached("serving", line.at);
    journey.write(story.logs())?;
    Ok(at)
}

/// Waits until the boot server has heard from the machine with this number that it serves, and looks at what it
/// shows of it.
pub(crate) fn is_known_to_serve(scenery: &Scenery, card: u8) -> Result<()> {
    let mac = qemu_tests::lan::mac(card);
    let heard = format!("a machine serves mac={mac}");
    scenery
        .provider
        .log()
        .wait_for_anywhere(&heard, BOOT_LIMIT)?;
    let shown = scenery.provider.clients(&["list", "--json"])?;
    let shown: serde_json::Value = serde_json::from_str(&shown).context("plasmd clients")?;
    let machines = shown["machines"].as_array();
    let machine = machines
        .into_iter()
        .flatten()
        .find(|machine| machine["mac"] == mac.as_str())
        .with_context(|| format!("plasmd clients shows no {mac}: {shown}"))?;
    ensure!(
        machine["state"] == "serving",
        "{mac} serves, and plasmd clients shows {machine}"
    );
    Ok(())
}
