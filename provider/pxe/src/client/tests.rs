//! Requests as firmware sends them, and who they are taken for.

use super::*;
use crate::dhcp::{Message, Operation, Options, options};
use std::net::Ipv4Addr;

const VM: Mac = Mac([0x52, 0x54, 0, 0, 0, 1]);
const PI: Mac = Mac([0xdc, 0xa6, 0x32, 1, 2, 3]);

fn request(mac: Mac, kind: Kind, given: &[(u8, &[u8])]) -> Request {
    let mut all = Options::default();
    for (code, value) in given {
        all.add(*code, value);
    }
    Request::from_message(Message {
        operation: Operation::Request,
        kind,
        xid: 1,
        hops: 0,
        secs: 0,
        broadcast: true,
        ciaddr: Ipv4Addr::UNSPECIFIED,
        yiaddr: Ipv4Addr::UNSPECIFIED,
        siaddr: Ipv4Addr::UNSPECIFIED,
        giaddr: Ipv4Addr::UNSPECIFIED,
        mac,
        server_name: None,
        file: None,
        options: all,
    })
    .unwrap()
}

fn discover(mac: Mac, given: &[(u8, &[u8])]) -> Option<Client> {
    classify(&request(mac, Kind::Discover, given))
}

fn firmware(mac: Mac, class: &str, arch: &[u8]) -> Option<Firmware> {
    let given = [(options::CLASS, class.as_bytes()), (options::ARCH, arch)];
    discover(mac, &given).map(|client| client.firmware)
}

#[test]
fn the_class_says_whether_it_boots() {
    // C2, C20, C59
    let check =
        |class: &str, expected| assert_eq!(firmware(VM, class, &[0, 7]), expected, "{class}");
    check("PXEClient:Arch:00007:UNDI:003016", Some(Firmware::UefiPxe));
    check(
        "HTTPClient:Arch:00016:UNDI:003016",
        Some(Firmware::UefiHttp),
    );
    check("PhaseClient:Arch:00007", Some(Firmware::Phase));
    check("PXEClient", Some(Firmware::UefiPxe));
    check("pxeclient", None);
    check("MSFT 5.0", None);
    check("udhcp 1.36.1", None);
    check("NVIDIA/BF/OOB", None);
    check("NVIDIA/BF/BMC", None);
    check("BF2Client", None);
    check("CPQRIB3", None);
    check("iDRAC", None);
    check("AAPLBSDPC/i386/iMac4,1", None);
}

#[test]
fn a_discover_without_class_or_architecture_is_no_netboot() {
    // C20
    assert_eq!(discover(VM, &[(options::ARCH, &[0, 7])]), None);
    assert_eq!(discover(VM, &[(options::CLASS, b"PXEClient")]), None);
    let later = request(VM, Kind::Request, &[(options::CLASS, b"PXEClient")]);
    assert_eq!(classify(&later).unwrap().arch, ClientArch::BIOS);
}

#[test]
fn the_architecture_comes_from_the_list_or_from_the_class() {
    // C12
    let arch = |class: &str, arch: &[u8]| {
        let given: &[(u8, &[u8])] = &[(options::CLASS, class.as_bytes()), (options::ARCH, arch)];
        discover(VM, given).unwrap().arch
    };
    assert_eq!(
        arch("PXEClient:Arch:00000:UNDI:002001", &[]),
        ClientArch::BIOS
    );
    assert_eq!(
        arch("PXEClient:Arch:00011:UNDI:003000", &[]),
        ClientArch::EFI_ARM64
    );
    assert_eq!(arch("PXEClient", &[0, 99, 0, 7]), ClientArch::EFI_X64);
    assert_eq!(arch("PXEClient:Arch:00007", &[0, 99]), ClientArch::EFI_X64);
    assert_eq!(arch("PXEClient", &[0, 99]), ClientArch(99));
    assert_eq!(arch("PXEClient:Arch:", &[0, 0, 7]), ClientArch::BIOS);
}

#[test]
fn every_architecture_leads_to_its_firmware() {
    // C12
    let check = |code: u8, class: &str, expected| {
        assert_eq!(firmware(VM, class, &[0, code]), Some(expected), "{code}");
    };
    check(0, "PXEClient", Firmware::BiosPxe);
    for code in [6, 7, 9, 10, 11, 25, 27, 37, 39] {
        check(code, "PXEClient", Firmware::UefiPxe);
    }
    for code in [15, 16, 17, 18, 19, 20, 26, 28, 38, 40] {
        check(code, "HTTPClient", Firmware::UefiHttp);
    }
    for code in [21, 22, 23, 24] {
        check(code, "PXEClient", Firmware::UBoot);
    }
    check(41, "PXEClient", Firmware::RaspberryPi);
    assert_eq!(ClientArch(9).folder(), Some("x86_64"));
    assert_eq!(ClientArch(0).folder(), Some("x86_64"));
    assert_eq!(ClientArch(6).folder(), None);
    assert_eq!(ClientArch(11).folder(), Some("aarch64"));
    assert_eq!(ClientArch(19).folder(), Some("aarch64"));
    assert_eq!(ClientArch(99).to_string(), "architecture 99");
}

#[test]
fn ipxe_is_known_by_raw_class_listed_class_or_option() {
    // C13, C14
    let check = |user: &[u8], features: &[u8], expected: Option<(bool, bool)>| {
        let mut given: Vec<(u8, &[u8])> =
            vec![(options::CLASS, b"PXEClient"), (options::ARCH, &[0, 0])];
        if !user.is_empty() {
            given.push((options::USER_CLASS, user));
        }
        if !features.is_empty() {
            given.push((options::IPXE, features));
        }
        let firmware = discover(VM, &given).unwrap().firmware;
        let expected = expected.map(|(http, efi)| Firmware::Ipxe { http, efi });
        assert_eq!(
            firmware,
            expected.unwrap_or(Firmware::BiosPxe),
            "{user:?} {features:?}"
        );
    };
    let http = &[0x13, 1, 1][..];
    check(b"", b"", None);
    check(b"iPXE", b"", Some((false, false)));
    check(b"iPXE", http, Some((true, false)));
    check(b"\x04iPXE", http, Some((true, false)));
    check(b"\x03foo\x04iPXE", b"", Some((false, false)));
    check(b"iPXE\0", http, Some((true, false)));
    check(b"", &[0x13, 1, 1, 0x24, 1, 1], Some((true, true)));
    check(b"", &[0x13, 1, 0], Some((false, false)));
    check(b"gPXE-like", b"", None);
    check(b"", &[0x13], Some((false, false)));
}

#[test]
fn a_raspberry_pi_says_bios_and_is_known_by_its_maker() {
    // C55
    assert_eq!(
        firmware(PI, "PXEClient:Arch:00000:UNDI:002001", &[0, 0]),
        Some(Firmware::RaspberryPi)
    );
    assert_eq!(
        firmware(PI, "PXEClient:Arch:00011:UNDI:003000", &[0, 11]),
        Some(Firmware::UefiPxe)
    );
}

#[test]
fn the_files_for_a_raspberry_pi_are_those_for_arm() {
    // C55
    let given: &[(u8, &[u8])] = &[(options::CLASS, b"PXEClient"), (options::ARCH, &[0, 0])];
    let arch = discover(PI, given).unwrap().arch;
    assert_eq!(
        (arch, arch.folder()),
        (ClientArch::RPIBOOT, Some("aarch64"))
    );
}

#[test]
fn an_identity_of_zeroes_is_none() {
    // C11
    let uuid = |bytes: &[u8]| {
        let given: &[(u8, &[u8])] = &[
            (options::CLASS, b"PXEClient"),
            (options::ARCH, &[0, 7]),
            (options::UUID, bytes),
        ];
        discover(VM, given).unwrap().uuid
    };
    assert_eq!(uuid(&[0; 17]), None);
    assert_eq!(uuid(&[9; 16]), None);
    let mut real = [7; 17];
    real[0] = 0;
    assert_eq!(uuid(&real), Some([7; 16]));
}
