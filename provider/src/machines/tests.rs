//! The table as its users have it: machines that ask, fetch and report, and what the operator decides.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use artifact_store::Store;
use pxe::boot::{Plan, Reason};
use pxe::client::{Client, ClientArch, Firmware};
use serde_json::Value;

use super::*;
use crate::config::file;
use crate::http::answered::Answered;
use crate::machines::event::{Carrier, Event, Via};
use crate::machines::orders::{Once, Way};

const MAC: &str = "52:54:00:12:34:56";

struct Lan {
    root: tempfile::TempDir,
    machines: Machines,
}

fn files(root: &Path) {
    for (path, content) in [
        ("stable/x86_64/vmlinuz", "k"),
        ("stable/x86_64/initramfs.img", "i"),
        ("stable/x86_64/rootfs.squashfs", "r"),
        ("stable/x86_64/phase.efi", "u"),
        ("debian/x86_64/linux", "k"),
        ("debian/x86_64/initrd.gz", "0123456789"),
        (
            "debian/x86_64/boot.toml",
            "once = true\ncmdline = \"auto\"\n",
        ),
    ] {
        let path = root.join("files").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

impl Lan {
    fn new(only: Only, profiles: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        files(root.path());
        let machines = Self::start(root.path(), only, profiles);
        Self { root, machines }
    }

    fn start(root: &Path, only: Only, profiles: &str) -> Machines {
        let store = Arc::new(Store::open(&root.join("files")).unwrap());
        let has =
            |_: &Channel, _, file: &str| file.ends_with(".kpxe") || file.starts_with("snponly");
        let setup = Setup {
            channel: "stable".parse().unwrap(),
            arch: Arch::X86_64,
            only,
            port: Some(8080),
        };
        let parsed = file::parse(profiles);
        let (profiles, problems) = profiles::read(&parsed.sections);
        assert!(parsed.problems.is_empty() && problems.is_empty());
        let state = StateFile::open(&root.join("state")).unwrap();
        let shelf = Shelf::new(store, Box::new(has));
        Machines::new(setup, shelf, Arc::new(profiles), Some(state))
    }

    /// The same after a restart.
    fn restarted(self, only: Only) -> Self {
        let Self { root, machines } = self;
        machines.save().unwrap();
        drop(machines);
        let machines = Self::start(root.path(), only, "");
        Self { root, machines }
    }

    fn asks(&self, firmware: Firmware, second: u64) -> Plan {
        let via = Via {
            server: [10, 0, 0, 1].into(),
            interface: "eth0".to_owned(),
            relay: None,
        };
        self.machines.plan_at(&client(firmware), &via, at(second))
    }

    fn sent(&self, name: &str, second: u64) {
        let event = Event::FileSent {
            name: name.to_owned(),
            bytes: 1_000,
            via: Carrier::Http,
        };
        self.machines.note_at(mac(), event, at(second));
    }

    fn shown(&self) -> Value {
        self.machines.shown(usize::MAX)[0].clone()
    }
}

fn client(firmware: Firmware) -> Client {
    Client {
        mac: mac(),
        firmware,
        arch: match firmware {
            Firmware::BiosPxe | Firmware::Ipxe { efi: false, .. } => ClientArch::BIOS,
            _ => ClientArch::EFI_X64,
        },
        uuid: Some([0x12; 16]),
        class: "PXEClient:Arch:00007".to_owned(),
    }
}

fn mac() -> Mac {
    MAC.parse().unwrap()
}

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
}

fn offer_of(plan: Plan) -> pxe::boot::Offer {
    match plan {
        Plan::Netboot(offer) => offer,
        other => panic!("{other:?}"),
    }
}

const IPXE: Firmware = Firmware::Ipxe {
    http: true,
    efi: false,
};

#[test]
fn a_machine_is_offered_its_image_and_its_story_is_kept() {
    let lan = Lan::new(Only::All, "");
    let offer = offer_of(lan.asks(Firmware::UefiPxe, 0));
    assert_eq!(offer.tftp_file.as_deref(), Some("stable/x86_64/phase.efi"));
    lan.machines.note_at(
        mac(),
        Event::Offered {
            strategy: "binl",
            file: offer.tftp_file,
        },
        at(0),
    );
    lan.machines
        .note_at(mac(), Event::LeaseGiven(Ipv4Addr::new(10, 0, 0, 7)), at(1));
    lan.sent("stable/x86_64/phase.efi", 4);
    assert_eq!(lan.shown()["state"], "booting");
    assert!(lan.asks(Firmware::Phase, 12) != Plan::Silence(Reason::Denied));
    for (stage, second) in [
        (Stage::Manifest, 13),
        (Stage::Mounted, 15),
        (Stage::Serving, 17),
    ] {
        lan.machines.note_at(mac(), Event::Stage(stage), at(second));
    }
    let shown = lan.shown();
    assert_eq!(shown["mac"], MAC);
    assert_eq!(shown["state"], "serving");
    // The firmware is the machine's, not Linux's.
    assert_eq!(shown["firmware"], "UEFI PXE");
    assert_eq!(shown["strategy"], "binl");
    assert_eq!(shown["maker"], "QEMU");
    assert_eq!(shown["uuid"], "12121212-1212-1212-1212-121212121212");
    assert_eq!(shown["addresses"][0], "10.0.0.7");
    assert_eq!(
        (&shown["bytes"], &shown["boots"]),
        (&1_000.into(), &1.into())
    );
    let stages = shown["boot"]["stages"].as_array().unwrap();
    let last = stages.last().unwrap();
    assert_eq!(
        (&last["stage"], &last["after_ms"]),
        (&"serving".into(), &17_000.into())
    );
    let totals = lan.machines.totals();
    assert_eq!(
        (totals.counts.boots_total, totals.counts.served),
        (1, (1, 17.0))
    );
    assert_eq!(
        totals.counts.stages_total,
        [1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1]
    );
    let serving = totals
        .states
        .iter()
        .find(|(state, _)| state.label() == "serving");
    assert_eq!(serving.unwrap().1, 1);
}

#[test]
fn strangers_wait_until_they_are_allowed_and_that_is_remembered() {
    let lan = Lan::new(Only::Known, "");
    assert_eq!(
        lan.asks(Firmware::UefiPxe, 0),
        Plan::Silence(Reason::Unknown)
    );
    assert_eq!(lan.shown()["state"], "waiting");
    assert!(
        lan.machines
            .order(mac(), |order| order.is_allowed = Some(true))
            .unwrap()
    );
    offer_of(lan.asks(Firmware::UefiPxe, 4));
    let lan = lan.restarted(Only::Known);
    assert_eq!(lan.shown()["state"], "not-seen");
    offer_of(lan.asks(Firmware::UefiPxe, 9));
    assert!(lan.machines.forget(mac()).unwrap());
    assert_eq!(
        lan.asks(Firmware::UefiPxe, 10),
        Plan::Silence(Reason::Unknown)
    );
}

// C54
#[test]
fn a_boot_that_was_asked_for_once_happens_once() {
    let lan = Lan::new(Only::All, "");
    let once = |order: &mut Order| {
        order.way = Some(Way::Local);
        order.once = Some(Once::new(Way::Network, None));
    };
    lan.machines.order(mac(), once).unwrap();
    offer_of(lan.asks(Firmware::UefiPxe, 0));
    // Retries, and a transfer that broke off, do not use it up.
    offer_of(lan.asks(Firmware::UefiPxe, 4));
    lan.machines.note_at(
        mac(),
        Event::FileAborted {
            name: "stable/x86_64/phase.efi".to_owned(),
            bytes: 5,
            via: Carrier::Tftp,
            why: "gone".to_owned(),
        },
        at(5),
    );
    offer_of(lan.asks(Firmware::UefiPxe, 12));
    lan.sent("stable/x86_64/phase.efi", 13);
    // Its Linux gets the image; its firmware does not get it again, also after a restart of the provider.
    offer_of(lan.asks(Firmware::Phase, 20));
    let lan = lan.restarted(Only::All);
    assert_eq!(lan.asks(Firmware::UefiPxe, 60), Plan::LocalDisk);
    assert_eq!(lan.shown()["state"], "local-disk");
}

#[test]
fn a_disk_boot_that_was_asked_for_once_happens_once() {
    let lan = Lan::new(Only::All, "");
    let once = Once::new(Way::Local, None);
    lan.machines
        .order(mac(), |order| order.once = Some(once))
        .unwrap();
    for second in [0, 4, 12, 28] {
        assert_eq!(
            lan.asks(Firmware::UefiPxe, second),
            Plan::LocalDisk,
            "{second}"
        );
    }
    offer_of(lan.asks(Firmware::UefiPxe, 600));
}

#[test]
fn a_disk_boot_that_was_asked_for_once_is_not_done_again_after_a_restart() {
    let lan = Lan::new(Only::All, "");
    let once = |order: &mut Order| order.once = Some(Once::new(Way::Local, None));
    lan.machines.order(mac(), once).unwrap();
    assert_eq!(lan.asks(Firmware::UefiPxe, 0), Plan::LocalDisk);
    // Looking on changes nothing.
    assert_eq!(lan.shown()["once"]["way"], "local");
    let lan = lan.restarted(Only::All);
    // The same boot, a retry later; then the next one.
    assert_eq!(lan.asks(Firmware::UefiPxe, 28), Plan::LocalDisk);
    let lan = lan.restarted(Only::All);
    offer_of(lan.asks(Firmware::UefiPxe, 600));
    // Used up, and that is written without anybody who waits for it.
    let lan = lan.restarted(Only::All);
    offer_of(lan.asks(Firmware::UefiPxe, 610));
    // Asked for twice in a row it is done twice.
    for second in [1_000, 2_000] {
        lan.machines.order(mac(), once).unwrap();
        assert_eq!(lan.asks(Firmware::UefiPxe, second), Plan::LocalDisk);
    }
    offer_of(lan.asks(Firmware::UefiPxe, 3_000));
}

#[test]
fn one_boot_from_a_channel_is_not_used_up_by_another_channel() {
    let lan = Lan::new(Only::All, "");
    let debian = Once::new(Way::Network, Some("debian".parse().unwrap()));
    let is_waiting = || lan.shown()["once"]["channel"] == "debian";
    // Decided while the machine was loading its usual image.
    offer_of(lan.asks(IPXE, 0));
    lan.sent("stable/x86_64/vmlinuz", 1);
    lan.machines
        .order(mac(), |order| order.once = Some(debian))
        .unwrap();
    lan.sent("stable/x86_64/initramfs.img", 2);
    assert!(is_waiting());
    offer_of(lan.asks(IPXE, 300));
    lan.sent("debian/x86_64/initrd.gz", 301);
    assert!(!is_waiting());
}

/// An answer over HTTP to the machine, which has the address 10.0.0.7.
fn get(lan: &Lan, target: &str, status: u16, (promised, sent): (u64, u64), second: u64) {
    let answered = Answered {
        client: [10, 0, 0, 7].into(),
        method: &http::Method::GET,
        target,
        status,
        promised,
        sent,
        took: Duration::ZERO,
        agent: None,
        referer: None,
        request_id: None,
        is_fast: true,
    };
    lan.machines.answered(&answered, at(second));
}

// C54
#[test]
fn what_was_sent_in_parts_was_sent() {
    const INITRD: &str = "/debian/x86_64/initrd.gz";
    for parts in [
        // Two ranges; and a download that broke off, and was resumed.
        [(206, (4, 4)), (206, (6, 6))],
        [(200, (10, 7)), (206, (3, 3))],
    ] {
        let lan = Lan::new(Only::All, "");
        offer_of(lan.asks(IPXE, 0));
        lan.machines
            .note_at(mac(), Event::AddressSeen([10, 0, 0, 7].into()), at(0));
        get(&lan, "/debian/x86_64/linux", 200, (1, 1), 1);
        // Begun anew: what came before counts no more.
        get(&lan, INITRD, 206, (9, 9), 2);
        get(&lan, INITRD, 200, (10, 2), 3);
        get(&lan, INITRD, 206, (1, 1), 4);
        assert_eq!(lan.shown()["installed"], Value::Null);
        get(&lan, INITRD, 200, (10, 0), 5);
        for (status, bytes) in parts {
            assert_eq!(lan.shown()["installed"], Value::Null);
            get(&lan, INITRD, status, bytes, 6);
        }
        assert_eq!(lan.shown()["installed"], "debian/x86_64");
        assert_eq!(lan.shown()["state"], "booting");
    }
}

#[test]
fn a_machine_that_is_sent_to_its_disk_may_ask_for_what_is_not_there() {
    let lan = Lan::new(Only::All, "");
    offer_of(lan.asks(Firmware::UefiHttp, 0));
    lan.machines
        .note_at(mac(), Event::AddressSeen([10, 0, 0, 7].into()), at(0));
    get(&lan, "/gone.efi", 404, (9, 9), 1);
    assert_eq!(lan.shown()["boot"]["error"], "gone.efi: 404");
    lan.machines
        .order(mac(), |order| order.way = Some(Way::Local))
        .unwrap();
    assert_eq!(lan.asks(Firmware::UefiHttp, 300), Plan::LocalDisk);
    get(&lan, "/boot-local-disk.efi", 404, (9, 9), 301);
    assert_eq!(lan.shown()["boot"]["error"], Value::Null);
}

// C54
#[test]
fn an_installer_is_booted_once() {
    let lan = Lan::new(
        Only::All,
        "[[profile]]\nname = \"a\"\nmatch = \"*\"\nchannel = \"debian\"\n",
    );
    let offer = offer_of(lan.asks(IPXE, 0));
    assert_eq!(
        offer.script_url.as_deref(),
        Some("http://10.0.0.1:8080/boot.ipxe?mac=52-54-00-12-34-56")
    );
    lan.sent("debian/x86_64/linux", 1);
    offer_of(lan.asks(IPXE, 2));
    lan.sent("debian/x86_64/initrd.gz", 3);
    assert_eq!(lan.shown()["installed"], "debian/x86_64");
    assert_eq!(lan.asks(IPXE, 600), Plan::LocalDisk);
    let again = Once::new(Way::Network, None);
    lan.machines
        .order(mac(), |order| order.once = Some(again))
        .unwrap();
    offer_of(lan.asks(IPXE, 1_200));
}

#[test]
fn what_cannot_be_booted_is_explained() {
    let lan = Lan::new(Only::All, "");
    let mut odd = client(Firmware::UefiPxe);
    odd.arch = ClientArch(27);
    let via = Via {
        server: [10, 0, 0, 1].into(),
        interface: "eth0".to_owned(),
        relay: Some([10, 9, 0, 1].into()),
    };
    assert_eq!(
        lan.machines.plan_at(&odd, &via, at(0)),
        Plan::Silence(Reason::NothingToBoot)
    );
    let shown = lan.shown();
    assert_eq!(
        (&shown["state"], &shown["relay"]),
        (&"not-answered".into(), &"10.9.0.1".into())
    );
    assert!(
        shown["why"].as_str().unwrap().contains("riscv64"),
        "{shown}"
    );
}

#[test]
fn a_packet_that_needs_no_answer_is_no_failure() {
    let lan = Lan::new(Only::All, "");
    let quiet = || Event::NotAnswered("it takes its address from another server".to_owned());
    lan.asks(Firmware::UefiHttp, 0);
    lan.machines.note_at(mac(), quiet(), at(0));
    let shown = lan.shown();
    assert_eq!(
        (&shown["state"], &shown["why"]),
        (
            &"asking".into(),
            &"it takes its address from another server".into()
        )
    );
    let offered = Event::Offered {
        strategy: "http",
        file: None,
    };
    lan.machines.note_at(mac(), offered, at(1));
    lan.asks(Firmware::UefiHttp, 4);
    lan.machines.note_at(mac(), quiet(), at(4));
    let shown = lan.shown();
    assert_eq!(
        (&shown["state"], &shown["why"]),
        (&"offered".into(), &Value::Null)
    );
    lan.sent("stable/x86_64/phase.efi", 6);
    assert_eq!(lan.shown()["state"], "booting");
}

fn script(lan: &Lan, query: &str) -> String {
    let base = "http://10.0.0.1:8080";
    let asking = match script::Asking::read(query, base).unwrap() {
        Err(text) => return text,
        Ok(asking) => asking,
    };
    match lan.machines.script(asking, [10, 0, 0, 9].into(), base) {
        script::Script::Text(text) => text,
        script::Script::Boot(choice) => {
            let firsts: Vec<String> = choice
                .payloads
                .iter()
                .map(|payload| payload.own_cmdline.clone().unwrap_or("signed".to_owned()))
                .collect();
            choice.text(&firsts).unwrap()
        }
    }
}

const ASKS: &str = "mac=52-54-00-12-34-56&platform=pcbios&buildarch=i386&product=Box";

#[test]
fn a_script_is_what_the_policy_says() {
    let lan = Lan::new(
        Only::All,
        "[machine.\"52:54:00:12:34:56\"]\nchannel = \"stable\"\ncmdline = \"extra\"\n",
    );
    assert!(script(&lan, "").contains("mac=${netX/mac:hexhyp}"));
    assert!(script(&lan, "mac=52-54-00-12-34-56").contains("?mac=52-54-00-12-34-56&uuid=${uuid}"));
    let text = script(&lan, ASKS);
    let line = "kernel http://10.0.0.1:8080/stable/x86_64/vmlinuz initrd=initramfs.img signed \
                phase.provider=http://10.0.0.1:8080 phase.channel=stable extra || goto failed";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("&product=Box&failed=${code}"), "{text}");
    let shown = lan.shown();
    assert_eq!(
        (&shown["product"], &shown["addresses"][0]),
        (&"Box".into(), &"10.0.0.9".into())
    );
    // What iPXE says went wrong is shown, and it is told the same again.
    let text = script(&lan, &format!("{ASKS}&failed=2d0c613b"));
    assert!(text.contains("/vmlinuz"), "{text}");
    let error = lan.shown()["boot"]["error"].as_str().unwrap().to_owned();
    assert!(error.ends_with("https://ipxe.org/2d0c613b"), "{error}");
    lan.machines
        .order(mac(), |order| order.way = Some(Way::Local))
        .unwrap();
    assert!(script(&lan, ASKS).contains("sanboot"));
    lan.machines
        .order(mac(), |order| order.is_allowed = Some(false))
        .unwrap();
    assert!(script(&lan, ASKS).ends_with("exit 1\n"));
    assert!(
        script(&lan, "mac=52-54-00-12-34-56&platform=efi&buildarch=arm32")
            .contains("no files for this processor")
    );
}

#[test]
fn nothing_that_a_machine_says_is_a_command_of_its_script() {
    let lan = Lan::new(Only::All, "");
    let evil = "%0ashell%0d%20||%20%26%26%20;%20%23%20${net0/mac}%24%7Bx%7D%27%22%3C%e2%80%ae%9b";
    let asks = format!("{ASKS}&serial={evil}&manufacturer={evil}&uuid={evil}");
    let usual: Vec<String> = script(&lan, ASKS).lines().map(str::to_owned).collect();
    let text = script(&lan, &asks);
    assert_eq!(text.lines().count(), usual.len(), "{text}");
    for (line, usual) in text.lines().zip(&usual) {
        // Only the URL that is asked again has it, as one word in escapes.
        assert_eq!(line.split(' ').count(), usual.split(' ').count(), "{line}");
        if line != usual {
            assert!(
                line.starts_with("chain --autofree --replace http://10.0.0.1:8080/boot.ipxe?mac=")
            );
            assert_eq!(line.matches('$').count(), 1, "{line}");
        }
    }
    // However long it is, the next question is no longer than questions may be.
    let long = "%ff".repeat(150);
    let text = script(&lan, &format!("{ASKS}&serial={long}&manufacturer={long}"));
    let again = text.split("boot.ipxe?").last().unwrap();
    assert!(again.len() < limits::QUERY_MAX, "{}", again.len());
}

#[test]
fn linux_is_not_sent_to_https() {
    let lan = Lan::new(
        Only::All,
        "[[profile]]\nname = \"a\"\nmatch = \"*\"\nmenu = false\n",
    );
    let base = "https://10.0.0.1:8443";
    let asking = script::Asking::read(ASKS, base).unwrap().unwrap();
    let script::Script::Boot(choice) = lan.machines.script(asking, [10, 0, 0, 9].into(), base)
    else {
        panic!("nothing to boot");
    };
    let text = choice.text(&["signed".to_owned()]).unwrap();
    assert!(
        text.contains("kernel https://10.0.0.1:8443/stable/x86_64/vmlinuz"),
        "{text}"
    );
    assert!(text.contains(" signed phase.channel=stable "), "{text}");
}

#[test]
fn several_channels_are_a_menu_unless_somebody_chose() {
    let lan = Lan::new(Only::All, "[[profile]]\nname = \"auto\"\nmenu = false\n");
    let text = script(&lan, ASKS);
    for line in [
        "item target0 stable/x86_64",
        "item target1 debian/x86_64",
        "initrd=initrd.gz auto ||",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    lan.machines
        .order(mac(), |order| order.profile = Some("auto".to_owned()))
        .unwrap();
    assert!(!script(&lan, ASKS).contains("menu "));
    let once = Once::new(Way::Network, Some("debian".parse().unwrap()));
    lan.machines
        .order(mac(), |order| {
            *order = Order {
                once: Some(once),
                ..Order::default()
            }
        })
        .unwrap();
    let text = script(&lan, ASKS);
    assert!(
        text.contains("/debian/x86_64/linux") && !text.contains("menu "),
        "{text}"
    );
}

#[test]
fn bad_questions_are_refused() {
    for (query, expected) in [
        ("mac=52:54", "mac: not an Ethernet address"),
        ("mac=ff:ff:ff:ff:ff:ff", "mac: no machine"),
        ("mac=%zz", "mac: has a %"),
        ("mac=1&mac=2", "two fields"),
    ] {
        let error = script::Asking::read(query, "http://x").unwrap_err();
        assert!(
            error.starts_with(expected) || error.contains(expected),
            "{query}: {error}"
        );
    }
}

#[test]
fn what_is_fetched_over_http_belongs_to_the_machine_with_the_address() {
    let lan = Lan::new(Only::All, "");
    lan.asks(IPXE, 0);
    lan.machines
        .note_at(mac(), Event::AddressSeen([10, 0, 0, 7].into()), at(0));
    let get = http::Method::GET;
    let mut answered = Answered {
        client: [10, 0, 0, 7].into(),
        method: &get,
        target: "/stable/x86_64/vmlinuz",
        status: 200,
        promised: 10,
        sent: 10,
        took: Duration::ZERO,
        agent: None,
        referer: None,
        request_id: None,
        is_fast: true,
    };
    lan.machines.answered(&answered, at(1));
    assert_eq!(lan.shown()["state"], "loading");
    answered.target = "/stable/x86_64/initramfs.img?x=1";
    answered.sent = 4;
    lan.machines.answered(&answered, at(2));
    let shown = lan.shown();
    assert_eq!(
        (&shown["state"], &shown["bytes"]),
        (&"failed".into(), &14.into())
    );
    answered.sent = 10;
    lan.machines.answered(&answered, at(3));
    assert_eq!(lan.shown()["state"], "booting");
    answered.client = [10, 0, 0, 8].into();
    lan.machines.answered(&answered, at(4));
    assert_eq!(lan.shown()["bytes"], 24);
    // One table, and one machine in it: nobody else's downloads make machines.
    assert_eq!(lan.machines.shown(9).as_array().unwrap().len(), 1);
    assert_eq!(lan.machines.owner([10, 0, 0, 7].into()), Some(mac()));
}

#[test]
fn what_was_learned_and_who_is_forgotten_is_told() {
    let lan = Lan::new(Only::All, "");
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    lan.machines.tell_everything_to(Box::new(move |mac, what| {
        hears.lock().unwrap().push((mac, what))
    }));
    lan.asks(Firmware::UefiPxe, 0);
    lan.sent("stable/x86_64/phase.efi", 1);
    lan.machines.learn(mac(), Style::Menu);
    assert!(
        lan.machines
            .order(mac(), |order| order.is_allowed = None)
            .is_ok()
    );
    assert_eq!(lan.machines.learned(), [(mac(), Style::Menu)]);
    lan.machines.forget(mac()).unwrap();
    assert_eq!(lan.machines.learned(), []);
    let expected = [Heard::Transfer(Transfer::Done), Heard::Forgotten].map(|what| (mac(), what));
    assert_eq!(*heard.lock().unwrap(), expected);
}
