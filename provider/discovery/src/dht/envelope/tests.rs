//! The format: what may be written, bit by bit, and what a signer may not say.

use super::*;

/// The key of these tests: an Ed25519 seed of 32 times 7.
fn identity() -> Identity {
    let secret = ed25519::SecretKey::try_from_bytes([7; 32]).unwrap();
    Identity::from(ed25519::Keypair::from(secret))
}

fn full() -> Record {
    let key_ids = ["0123456789abcdef", "00000000000000ff"];
    Record {
        channel: "stable".parse().unwrap(),
        arch: Arch::X86_64,
        version: "1.2 beta".to_owned(),
        manifest: Some(Digest::of(b"manifest")),
        key_ids: key_ids.iter().map(|text| key_id(text).unwrap()).collect(),
        addresses: vec![
            "10.0.0.5:8080".parse().unwrap(),
            "[fd00::1]:8081".parse().unwrap(),
        ],
    }
}

fn bare() -> Record {
    Record {
        channel: "a".parse().unwrap(),
        arch: Arch::Aarch64,
        version: String::new(),
        manifest: None,
        key_ids: Vec::new(),
        addresses: Vec::new(),
    }
}

const SPAN: Span = Span {
    sequence: 7,
    created: Some(1_800_000_000),
    lifetime: LIFETIME,
};

/// A body that this crate would not write, signed all the same.
fn forged(body: &[u8]) -> Vec<u8> {
    let public_key = identity().ed25519().public().to_bytes();
    let signature = identity().ed25519().sign(&signed(&public_key, body));
    [&public_key[..], &signature, body].concat()
}

#[test]
fn what_is_sealed_is_read_as_it_was_meant() {
    for record in [full(), bare()] {
        for created in [None, SPAN.created] {
            let span = Span { created, ..SPAN };
            let sealed = Envelope::seal(&identity(), record.clone(), span);
            let opened = Envelope::open(sealed.bytes()).unwrap();
            assert_eq!(opened, sealed);
            assert_eq!(opened.signer, identity().peer());
            assert_eq!(opened.is_goodbye(), record.addresses.is_empty());
        }
    }
}

#[test]
fn a_hint_says_what_the_record_says_and_a_goodbye_is_none() {
    let sealed = Envelope::seal(&identity(), full(), SPAN);
    let hint = sealed.hint().unwrap();
    assert_eq!(hint.id, identity().peer_id());
    assert_eq!(
        hint.urls(),
        [
            "http://10.0.0.5:8080/stable/x86_64/manifest.json",
            "http://[fd00::1]:8081/stable/x86_64/manifest.json"
        ]
    );
    assert_eq!(hint.manifest, full().manifest);
    assert_eq!(Envelope::seal(&identity(), bare(), SPAN).hint(), None);
}

/// The format is a contract between versions, and with other implementations.
#[test]
fn the_bytes_are_those_of_the_format() {
    let sealed = Envelope::seal(&identity(), full(), SPAN);
    let body: Vec<u8> = [
        &7_u64.to_be_bytes()[..],
        &1_800_000_000_u64.to_be_bytes(),
        &3600_u32.to_be_bytes(),
        b"\x06stable\x06x86_64\x081.2 beta",
        b"\x01",
        Digest::of(b"manifest").as_bytes(),
        b"\x02\x01\x23\x45\x67\x89\xab\xcd\xef\0\0\0\0\0\0\0\xff",
        b"\x02\x04\x0a\0\0\x05\x1f\x90",
        b"\x06\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1f\x91",
    ]
    .concat();
    assert_eq!(&sealed.bytes()[PUBLIC_KEY_SIZE + SIGNATURE_SIZE..], body);
    // `openssl pkey` derives this key from that seed.
    let key = "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c";
    let written: String = sealed.bytes()[..PUBLIC_KEY_SIZE]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(written, key);
    assert_eq!(sealed.key(), "/phase/stable/x86_64/manifest");
    let value = join([sealed.bytes()].into_iter());
    assert_eq!(&value[..4], b"PHP1");
    assert_eq!(&value[6..], sealed.bytes());
}

#[test]
fn one_changed_bit_anywhere_and_any_cut_is_noticed() {
    let sealed = Envelope::seal(&identity(), full(), SPAN);
    for at in 0..sealed.bytes().len() * 8 {
        let mut bytes = sealed.bytes().to_vec();
        bytes[at / 8] ^= 1 << (at % 8);
        assert!(Envelope::open(&bytes).is_err(), "bit {at}");
    }
    for length in 0..sealed.bytes().len() {
        assert!(Envelope::open(&sealed.bytes()[..length]).is_err());
    }
    let longer = [sealed.bytes(), b"\0"].concat();
    assert_eq!(Envelope::open(&longer), Err(Invalid::Signature));
}

#[test]
fn a_signature_for_something_else_means_nothing_here() {
    let body = body(&full(), SPAN);
    let public_key = identity().ed25519().public().to_bytes();
    for signed in [body.clone(), [&public_key[..], &body].concat()] {
        let signature = identity().ed25519().sign(&signed);
        let bytes = [&public_key[..], &signature, &body].concat();
        assert_eq!(Envelope::open(&bytes), Err(Invalid::Signature));
    }
}

#[test]
fn what_a_signer_may_not_say_is_refused() {
    let good = body(&full(), SPAN);
    assert!(Envelope::open(&forged(&good)).is_ok());
    let changed = |record: Record, span: Span| Envelope::open(&forged(&body(&record, span)));
    let at = |address: &str| Record {
        addresses: vec![address.parse().unwrap()],
        ..full()
    };
    for address in [
        "127.0.0.1:80",
        "0.0.0.0:80",
        "0.1.2.3:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "169.254.1.1:80",
        "10.0.0.5:0",
        "[::]:80",
        "[::1]:80",
        "[fe80::1]:80",
        "[ff02::1]:80",
        "[::ffff:10.0.0.5]:80",
    ] {
        assert_eq!(
            changed(at(address), SPAN),
            Err(Invalid::Address),
            "{address}"
        );
    }
    for lifetime in [Duration::ZERO, LIFETIME + Duration::from_secs(1)] {
        let span = Span { lifetime, ..SPAN };
        assert_eq!(
            changed(full(), span),
            Err(Invalid::Malformed),
            "{lifetime:?}"
        );
    }
    let crowded = Record {
        addresses: (1..=9).map(|last| ([10, 0, 0, last], 80).into()).collect(),
        ..full()
    };
    assert_eq!(changed(crowded, SPAN), Err(Invalid::Size));
    for version in ["a\u{1b}[2J", "\u{e4}", &"v".repeat(65)] {
        let record = Record {
            version: version.to_owned(),
            ..full()
        };
        assert_eq!(
            changed(record, SPAN),
            Err(Invalid::Malformed),
            "{version:?}"
        );
    }
    // Names in another spelling, or none; something behind the end.
    for (from, to) in [
        ("\x06stable", "\x06Stable"),
        ("\x06stable", "\x00"),
        ("\x06x86_64", "\x05amd64"),
    ] {
        let at = good
            .windows(from.len())
            .position(|part| part == from.as_bytes())
            .unwrap();
        let body = [&good[..at], to.as_bytes(), &good[at + from.len()..]].concat();
        assert_eq!(
            Envelope::open(&forged(&body)),
            Err(Invalid::Malformed),
            "{to}"
        );
    }
    assert_eq!(
        Envelope::open(&forged(&[&good[..], b"\0"].concat())),
        Err(Invalid::Malformed)
    );
    assert_eq!(Envelope::open(&forged(&[0; 1000])), Err(Invalid::Size));
}

#[test]
fn what_is_published_is_cleaned_first() {
    let messy = Record {
        version: format!("1\n{}", "2".repeat(100)),
        addresses: ["127.0.0.1:80", "10.0.0.1:80", "10.0.0.1:80", "[fe80::1]:80"]
            .iter()
            .map(|text| text.parse().unwrap())
            .chain((2..50).map(|last| ([10, 0, 0, last], 80).into()))
            .collect(),
        key_ids: vec![key_id("0123456789abcdef").unwrap(); 50],
        ..full()
    };
    let clean = messy.cleaned();
    let expected: Vec<SocketAddr> = (1..=8).map(|last| ([10, 0, 0, last], 80).into()).collect();
    assert_eq!(clean.addresses, expected);
    assert_eq!((clean.version.len(), clean.key_ids.len()), (64, 8));
    let sealed = Envelope::seal(&identity(), clean, SPAN);
    assert!(Envelope::open(sealed.bytes()).is_ok());
}

#[test]
fn the_largest_record_fits() {
    let largest = Record {
        channel: "c".repeat(32).parse().unwrap(),
        arch: Arch::Aarch64,
        version: "v".repeat(VERSION_SIZE_MAX),
        manifest: Some(Digest::of(b"")),
        key_ids: vec![key_id("0123456789abcdef").unwrap(); KEY_IDS_MAX],
        addresses: (0..8)
            .map(|last| ([0xfd00, 0, 0, 0, 0, 0, 0, last], 80).into())
            .collect(),
    };
    let sealed = Envelope::seal(&identity(), largest, SPAN);
    assert!(sealed.bytes().len() <= ENVELOPE_SIZE_MAX);
    let value = join(std::iter::repeat_n(sealed.bytes(), 100));
    assert!(value.len() <= VALUE_SIZE_MAX);
    assert_eq!(split(&value).unwrap().len(), RECORDS_PER_KEY_MAX);
}

#[test]
fn a_value_is_split_strictly() {
    let one = b"PHP1\x00\x02ab";
    assert_eq!(split(one), Ok(vec![&b"ab"[..]]));
    assert_eq!(split(b"PHP1"), Ok(Vec::new()));
    for (value, expected) in [
        (b"".to_vec(), Invalid::Magic),
        (b"PHP".to_vec(), Invalid::Magic),
        (b"PHP2\x00\x02ab".to_vec(), Invalid::Magic),
        (b"{\"channel\":\"stable\"}".to_vec(), Invalid::Magic),
        (b"PHP1\x00".to_vec(), Invalid::Malformed),
        (b"PHP1\x00\x03ab".to_vec(), Invalid::Malformed),
        (b"PHP1\xff\xffab".to_vec(), Invalid::Size),
        ([&b"PHP1"[..], &[0; 2 * 33]].concat(), Invalid::Size),
        ([&b"PHP1"[..], &[0; 1 << 20]].concat(), Invalid::Size),
    ] {
        assert_eq!(split(&value), Err(expected), "{} bytes", value.len());
    }
}
