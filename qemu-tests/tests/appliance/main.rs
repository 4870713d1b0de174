//! The appliance from outside: it boots, serves, boots others, and refuses what does not verify.
//!
//! | module | tells |
//! | --- | --- |
//! | `relay` | one image boots, serves, and boots the next machine, which serves in turn |
//! | `refusals` | what happens when a provider or a disk lies |
//! | `handed_over` | what happens when the program that fetches is itself the liar |
//! | `finding` | a machine that knows no provider finds one |
//! | `swarm` | machines find each other, and go on when somebody they fetch from lies or is gone |
//! | `hardware` | firmware, disks, watchdog, missing consoles |
//! | `upgrade` | a machine replaces itself by a newer version, and boots another with what it has become |
//! | `upgrade_failures` | newer versions that die in every way: the machine is back, and says why |
//! | `network` | no DHCP server, renewed leases, two cards, IPv6 |
//! | `upgrade_orders` | a machine that waits for its operator's word, and obeys nobody else |
//! | `upgrade_disk` | a machine with ledger and slots starts the right image, whatever its disk does |
//! | `netboot_bios` | BIOS machines boot from the network, wherever the boot server stands |
//! | `power` | the power is cut at any moment of an upgrade |
//! | `upgrade_elsewhere` | upgrades with UEFI firmware, with little memory, and of two machines that clients boot from |
//! | `netboot_uefi` | UEFI machines do, over IPv4 and IPv6, on x86 and Arm |

mod finding;
mod handed_over;
mod hardware;
mod netboot;
mod netboot_bios;
mod netboot_uefi;
mod network;
mod people;
mod power;
mod refusals;
mod relay;
mod swarm;
mod upgrade;
mod upgrade_disk;
mod upgrade_elsewhere;
mod upgrade_failures;
mod upgrade_orders;

use std::process::ExitCode;
use std::time::Duration;

use qemu_tests::story::{Needs, Scene, run};

/// Firmware, kernel, artifacts and network of one machine, on a busy host under emulation.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// The kernel's console and the settings every image boots with; what `manifest.cmdline` has.
const CONSOLE: &str = "console=ttyS0,115200 panic=10 oops=panic quiet loglevel=4 no_timer_check";

/// What a machine says when a new version has proved itself.
const COMMITTED: &str = "upgrade: committed ";
/// What it says when one that was committed was stable after a cold start, too.
const PROVED: &str = ", proved by a cold start";

const fn scene(name: &'static str, limit_s: u64, play: Play) -> Scene {
    Scene {
        name,
        limit: Duration::from_secs(limit_s),
        needs: Needs::Images,
        play,
    }
}

type Play = fn(&qemu_tests::Story) -> anyhow::Result<()>;

fn main() -> ExitCode {
    // The long ones first: two run at once, and none should start last and alone.
    let scenes = [
        upgrade::SCENES,
        power::SCENES,
        upgrade_elsewhere::SCENES,
        upgrade_orders::SCENES,
        upgrade_failures::SCENES,
        relay::SCENES,
        netboot_uefi::SCENES,
        netboot_bios::SCENES,
        swarm::SCENES,
        hardware::SCENES,
        finding::SCENES,
        network::SCENES,
        refusals::SCENES,
        handed_over::SCENES,
        upgrade_disk::SCENES,
    ];
    run(&scenes.concat())
}
