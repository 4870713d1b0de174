//! What machines are given, by what is known and decided about them, and by what their firmware can start.

use std::sync::Arc;

use artifact_store::Store;

use super::*;
use crate::machines::orders::Once;
use crate::machines::profiles::Settings;
use crate::machines::shelf::BootToml;

fn channel(name: &str) -> Channel {
    name.parse().unwrap()
}

fn verdict(order: &Order, in_force: &InForce, change: impl FnOnce(&mut Case<'_>)) -> String {
    let mut case = Case {
        order,
        in_force,
        only_known: false,
        mute_boots: 0,
        is_linux: false,
    };
    change(&mut case);
    let installer = Arc::new(Folder {
        boot: BootToml {
            once: true,
            ..BootToml::default()
        },
        ..Folder::default()
    });
    match decide(
        &case,
        &channel("stable"),
        Arch::X86_64,
        |channel| match channel.as_str() {
            "debian" => Arc::clone(&installer),
            _ => Arc::default(),
        },
    ) {
        Verdict::Network(channel) => channel.to_string(),
        Verdict::LocalDisk(why) => format!("disk: {why:?}"),
        Verdict::Nothing(quiet) => format!("nothing: {quiet:?}"),
    }
}

fn ordered(change: impl FnOnce(&mut Order)) -> Order {
    let mut order = Order::default();
    change(&mut order);
    order
}

fn set(change: impl FnOnce(&mut Settings)) -> InForce {
    let mut in_force = InForce::default();
    change(&mut in_force.settings);
    in_force
}

#[test]
fn by_default_every_machine_boots_the_default_channel() {
    let (nothing, open) = (Order::default(), InForce::default());
    assert_eq!(verdict(&nothing, &open, |_| {}), "stable");
    let beta = set(|settings| settings.channel = Some(channel("beta")));
    assert_eq!(verdict(&nothing, &beta, |_| {}), "beta");
}

#[test]
fn only_known_machines_are_answered_when_that_is_wanted() {
    let only =
        |order: &Order, in_force: &InForce| verdict(order, in_force, |case| case.only_known = true);
    let open = InForce::default();
    assert_eq!(only(&Order::default(), &open), "nothing: Unknown");
    assert_eq!(
        only(&ordered(|order| order.is_allowed = Some(true)), &open),
        "stable"
    );
    assert_eq!(
        only(&ordered(|order| order.profile = Some("a".into())), &open),
        "stable"
    );
    let learned = ordered(|order| order.learned = Some(pxe::boot::Style::Binl));
    assert_eq!(only(&learned, &open), "nothing: Unknown");
    let named = InForce {
        is_named: true,
        ..InForce::default()
    };
    assert_eq!(only(&Order::default(), &named), "stable");
}

#[test]
fn a_command_stands_above_a_profile() {
    let open = InForce::default();
    let denied = ordered(|order| order.is_allowed = Some(false));
    assert_eq!(verdict(&denied, &open, |_| {}), "nothing: Denied");
    let none = set(|settings| settings.way = Some(Way::None));
    assert_eq!(verdict(&Order::default(), &none, |_| {}), "nothing: Denied");
    let allowed = ordered(|order| order.is_allowed = Some(true));
    assert_eq!(verdict(&allowed, &none, |_| {}), "stable");
    let local = set(|settings| settings.way = Some(Way::Local));
    assert_eq!(verdict(&Order::default(), &local, |_| {}), "disk: Said");
    assert_eq!(verdict(&allowed, &local, |_| {}), "disk: Said");
    let network = ordered(|order| order.way = Some(Way::Network));
    assert_eq!(verdict(&network, &local, |_| {}), "stable");
    // What runs already gets its image.
    let disk = ordered(|order| order.way = Some(Way::Local));
    assert_eq!(verdict(&disk, &open, |case| case.is_linux = true), "stable");
    assert_eq!(
        verdict(&denied, &open, |case| case.is_linux = true),
        "nothing: Denied"
    );
}

// C54
#[test]
fn one_boot_that_is_different() {
    let once = |way, name: Option<&str>| {
        ordered(|order| {
            order.way = Some(Way::Local);
            order.once = Some(Once::new(way, name.map(channel)));
        })
    };
    let open = InForce::default();
    assert_eq!(verdict(&once(Way::Network, None), &open, |_| {}), "stable");
    assert_eq!(
        verdict(&once(Way::Network, Some("debian")), &open, |_| {}),
        "debian"
    );
    assert_eq!(
        verdict(&once(Way::Local, None), &open, |_| {}),
        "disk: Once"
    );
    let other = set(|settings| settings.channel = Some(channel("beta")));
    assert_eq!(
        verdict(&once(Way::Network, Some("debian")), &other, |_| {}),
        "debian"
    );
}

// C54
#[test]
fn circles_end_at_the_disk() {
    let open = InForce::default();
    let looping = |case: &mut Case<'_>| case.mute_boots = 5;
    assert_eq!(verdict(&Order::default(), &open, looping), "stable");
    let three = set(|settings| settings.boots_max = Some(3));
    assert_eq!(verdict(&Order::default(), &three, looping), "disk: Loop");
    assert_eq!(
        verdict(&Order::default(), &three, |case| case.mute_boots = 2),
        "stable"
    );
    let debian = set(|settings| settings.channel = Some(channel("debian")));
    let installed = ordered(|order| order.installed = Some("debian/x86_64".to_owned()));
    assert_eq!(verdict(&Order::default(), &debian, |_| {}), "debian");
    assert_eq!(verdict(&installed, &debian, |_| {}), "disk: Installed");
    assert_eq!(verdict(&installed, &open, |_| {}), "stable");
    let mut again = installed;
    again.once = Some(Once::new(Way::Network, None));
    assert_eq!(verdict(&again, &debian, |_| {}), "debian");
}

/// What a firmware is told of a folder with these files, or why not.
fn told(files: &[&str], in_force: &InForce, firmware: Firmware) -> String {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("stable/x86_64");
    std::fs::create_dir_all(&folder).unwrap();
    for file in files {
        std::fs::write(folder.join(file), "x").unwrap();
    }
    let store = Arc::new(Store::open(root.path()).unwrap());
    let served: Vec<String> = files.iter().map(|file| (*file).to_owned()).collect();
    let has = move |_: &Channel, _, file: &str| served.iter().any(|one| one == file);
    let shelf = Shelf::new(store, Box::new(has));
    let stable = channel("stable");
    let place = Place {
        mac: "52:54:00:12:34:56".parse().unwrap(),
        channel: &stable,
        arch: Arch::X86_64,
        server: [10, 0, 0, 1].into(),
        port: Some(8080),
    };
    let folder = shelf.folder(&stable, Arch::X86_64);
    match offer(&shelf, &folder, in_force, firmware, &place) {
        Err(why) => why,
        Ok(offer) => {
            let all = [
                offer.tftp_file,
                offer.http_url,
                offer.script_url,
                offer.manifest_url,
            ];
            let all: Vec<String> = all.into_iter().flatten().collect();
            all.join(" ")
                .replace("http://10.0.0.1:8080", "")
                .replace("stable/x86_64/", "")
        }
    }
}

const IMAGE: [&str; 7] = [
    "vmlinuz",
    "initramfs.img",
    "rootfs.squashfs",
    "phase.efi",
    "undionly.kpxe",
    "snponly.efi",
    "ipxe.efi",
];

const SCRIPT: &str = "/boot.ipxe?mac=52-54-00-12-34-56";

#[test]
fn each_firmware_gets_what_it_can_start() {
    let ipxe = |http, efi| Firmware::Ipxe { http, efi };
    for (firmware, expected) in [
        (Firmware::BiosPxe, format!("undionly.kpxe {SCRIPT}")),
        (Firmware::UefiPxe, format!("phase.efi /phase.efi {SCRIPT}")),
        (Firmware::UefiHttp, format!("phase.efi /phase.efi {SCRIPT}")),
        (ipxe(true, false), SCRIPT.to_owned()),
        (ipxe(true, true), SCRIPT.to_owned()),
        (ipxe(false, false), format!("undionly.kpxe {SCRIPT}")),
        (
            ipxe(false, true),
            format!("snponly.efi /snponly.efi {SCRIPT}"),
        ),
        (Firmware::UBoot, format!("phase.efi /phase.efi {SCRIPT}")),
        (Firmware::Phase, format!("{SCRIPT} /manifest.json")),
        (
            Firmware::RaspberryPi,
            "a Raspberry Pi needs its own files, config.txt first".to_owned(),
        ),
    ] {
        assert_eq!(
            told(&IMAGE, &InForce::default(), firmware),
            expected,
            "{firmware:?}"
        );
    }
}

#[test]
fn profiles_choose_the_loader() {
    let loader = |loader| set(|settings| settings.loader = Some(loader));
    let uefi = |in_force: &InForce| told(&IMAGE, in_force, Firmware::UefiPxe);
    let begins = |text: String, begin: &str| assert!(text.starts_with(begin), "{text}");
    begins(uefi(&loader(Loader::Snponly)), "snponly.efi ");
    begins(uefi(&loader(Loader::Ipxe)), "ipxe.efi ");
    begins(uefi(&loader(Loader::Uki)), "phase.efi ");
    // Only iPXE can pass arguments on, or show a menu.
    let cmdline = set(|settings| settings.cmdline = Some("quiet".to_owned()));
    begins(uefi(&cmdline), "snponly.efi ");
    begins(
        uefi(&set(|settings| settings.menu = Some(true))),
        "snponly.efi ",
    );
    begins(told(&IMAGE[..4], &cmdline, Firmware::UefiPxe), "phase.efi ");
    let file = set(|settings| settings.file = Some("ipxe.efi".parse().unwrap()));
    begins(uefi(&file), "ipxe.efi /ipxe.efi ");
    let gone = set(|settings| settings.file = Some("grub.efi".parse().unwrap()));
    begins(uefi(&gone), "stable/x86_64/grub.efi is missing");
}

#[test]
fn what_is_missing_is_said() {
    let open = InForce::default();
    let payload = ["vmlinuz", "initrd.gz"];
    for (files, firmware, expected) in [
        (
            &payload[..],
            Firmware::BiosPxe,
            "no undionly.kpxe: install the package ipxe",
        ),
        (
            &payload,
            Firmware::UefiPxe,
            "no snponly.efi: install the package ipxe",
        ),
        (
            &["phase.efi", "undionly.kpxe"],
            Firmware::BiosPxe,
            "no kernel for iPXE to boot",
        ),
        (&[], Firmware::UefiHttp, "no snponly.efi"),
        (
            &["phase.efi"],
            Firmware::Ipxe {
                http: true,
                efi: true,
            },
            "stable/x86_64/: iPXE needs a kernel here",
        ),
        (&payload, Firmware::UBoot, "U-Boot needs phase.efi"),
    ] {
        let why = told(files, &open, firmware);
        assert!(why.starts_with(expected), "{files:?} {firmware:?}: {why}");
    }
}

#[test]
fn urls_have_addresses_as_firmware_reads_them() {
    let stable = channel("stable");
    for (server, port, expected) in [
        ("10.0.0.1", Some(8080), Some("http://10.0.0.1:8080")),
        ("10.0.0.1", Some(80), Some("http://10.0.0.1")),
        ("fd77::1", Some(8080), Some("http://[fd77::1]:8080")),
        ("fd77::1", Some(80), Some("http://[fd77::1]")),
        ("10.0.0.1", None, None),
    ] {
        let place = Place {
            mac: "52:54:00:12:34:56".parse().unwrap(),
            channel: &stable,
            arch: Arch::X86_64,
            server: server.parse().unwrap(),
            port,
        };
        assert_eq!(place.base().as_deref(), expected, "{server}");
    }
}
