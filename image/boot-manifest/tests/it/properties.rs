//! Properties over random input: nothing panics, nothing changed is believed, everything sound survives the way.

use boot_manifest::handoff::Report;
use boot_manifest::{
    Arch, Manifest, PublicKey, SecretKey, Timestamp, TrustRoot, VerifyError, add_signature, sign,
    view,
};
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use crate::fixture::{artifact, check, key, root, signed};

/// One change to a byte string.
#[derive(Debug, Clone)]
enum Edit {
    Replace(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Copy(usize, usize, usize),
}

fn edit() -> impl Strategy<Value = Edit> {
    // Pieces of JSON get further into the parsers than random bytes do.
    let piece = prop_oneof![
        vec(any::<u8>(), 1..8),
        proptest::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            "\"",
            ",",
            ":",
            "\\u0000",
            "1e9",
            "-1",
            "null",
            "\"a\":1,",
            "9007199254740993",
            "\"payload\":\"\",",
            "==",
            "\u{feff}",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Edit::Replace(at, byte)),
        (any::<usize>(), piece).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<usize>(), 1..200_usize).prop_map(|(at, count)| Edit::Remove(at, count)),
        (any::<usize>(), any::<usize>(), 1..200_usize).prop_map(|(a, b, n)| Edit::Copy(a, b, n)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let length = bytes.len().max(1);
    let span = |at: usize, count: usize| {
        (at % length).min(bytes.len())..(at % length + count).min(bytes.len())
    };
    match edit {
        Edit::Replace(at, byte) => {
            if let Some(place) = bytes.get_mut(at % length) {
                *place = *byte;
            }
        }
        Edit::Insert(at, piece) => {
            let at = span(*at, 0).start;
            bytes.splice(at..at, piece.iter().copied());
        }
        Edit::Remove(at, count) => {
            let range = span(*at, *count);
            bytes.drain(range);
        }
        Edit::Copy(from, to, count) => {
            let piece = bytes[span(*from, *count)].to_vec();
            let to = span(*to, 0).start;
            bytes.splice(to..to, piece);
        }
    }
}

fn printable(size_max: usize) -> impl Strategy<Value = String> {
    vec(0x20..=0x7e_u8, 1..=size_max).prop_map(|bytes| bytes.into_iter().map(char::from).collect())
}

fn label(size_max: usize) -> impl Strategy<Value = String> {
    let alphabet: Vec<u8> = (b'a'..=b'z').chain(b'0'..=b'9').chain(*b"._-").collect();
    let first = proptest::sample::select(alphabet[..36].to_vec());
    let rest = vec(proptest::sample::select(alphabet), 0..size_max);
    (first, rest)
        .prop_map(|(first, rest)| std::iter::once(first).chain(rest).map(char::from).collect())
}

fn manifests() -> impl Strategy<Value = Manifest> {
    let counters = (1..=1_u64 << 53, 0..=1_u64 << 53);
    let times = (0..Timestamp::MAX.unix(), 1..1_000_000_000_i64);
    let texts = (printable(64), label(32), printable(2_000));
    (
        counters,
        times,
        texts,
        any::<bool>(),
        btree_set(label(64), 0..8),
        1..5_000_usize,
    )
        .prop_map(
            |(
                (sequence, security_version),
                (from, days),
                (version, channel, cmdline),
                arm,
                names,
                size,
            )| {
                let mut names = names;
                names.insert("kernel".to_owned());
                Manifest {
                    generation: 1,
                    sequence,
                    security_version,
                    version,
                    channel: channel.parse().unwrap(),
                    arch: if arm { Arch::Aarch64 } else { Arch::X86_64 },
                    created_at: Timestamp::from_unix(from),
                    expires_at: Timestamp::from_unix(from.saturating_add(days).max(from + 1)),
                    cmdline,
                    artifacts: names
                        .iter()
                        .map(|name| artifact(name, name, size))
                        .collect(),
                }
            },
        )
}

fn verify_at_creation(
    bytes: &[u8],
    root: &TrustRoot,
    now: Timestamp,
) -> Result<Manifest, VerifyError> {
    let expect = boot_manifest::Expect {
        now,
        floor: boot_manifest::Floor::default(),
        channel: None,
        arch: None,
        expiry: boot_manifest::Expiry::Refuse,
    };
    boot_manifest::verify(bytes, root, &expect).map(|verified| Manifest::clone(&verified))
}

#[test]
fn a_view_with_control_characters_is_not_shown() {
    let good = String::from_utf8(signed(&[1])).unwrap();
    assert!(view(good.as_bytes()).is_ok());
    for (from, to) in [("0.1.0", "\\u001b[2J"), ("/stable/x86_64/vmlinuz", "/\\n")] {
        let changed = good.replacen(from, to, 1);
        assert_ne!(changed, good);
        assert!(view(changed.as_bytes()).is_err(), "{to}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_changed_file_is_never_believed(edits in vec(edit(), 1..6)) {
        let good = signed(&[1]);
        let mut bytes = good.clone();
        edits.iter().for_each(|edit| apply(&mut bytes, edit));
        prop_assert_eq!(check(&bytes, &root(&[1], 1)).is_ok(), bytes == good);
        let _ = view(&bytes);
        let _ = add_signature(&bytes, &key(2));
    }

    #[test]
    fn sound_manifests_survive_the_way(manifest in manifests()) {
        let file = sign(&manifest, &[&key(1), &key(2)]).unwrap();
        let now = manifest.created_at;
        prop_assert_eq!(verify_at_creation(&file, &root(&[2], 1), now), Ok(manifest.clone()));
        let shown = view(&file).unwrap();
        prop_assert_eq!(shown.sequence, manifest.sequence);
        prop_assert_eq!(shown.artifacts.len(), manifest.artifacts.len());
        // In whatever order the keys come, the file is the same.
        let one_by_one = add_signature(&sign(&manifest, &[&key(2)]).unwrap(), &key(1)).unwrap();
        prop_assert_eq!(&one_by_one, &file);
        let from_draft = add_signature(&boot_manifest::draft(&manifest).unwrap(), &key(2)).unwrap();
        prop_assert_eq!(add_signature(&from_draft, &key(1)).unwrap(), file);
    }

    #[test]
    fn random_bytes_are_refused_without_panic(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(check(&bytes, &root(&[1], 1)).is_err());
        prop_assert!(view(&bytes).is_err());
        prop_assert!(TrustRoot::parse(&bytes).is_err());
        prop_assert!(Report::decode(&bytes).is_err());
        let _ = PublicKey::parse(&bytes);
        prop_assert!(SecretKey::from_pem(&String::from_utf8_lossy(&bytes)).is_err());
    }

    #[test]
    fn changed_roots_and_reports_never_panic(edits in vec(edit(), 1..6)) {
        let mut bytes = root(&[1, 2], 2).to_json().into_bytes();
        edits.iter().for_each(|edit| apply(&mut bytes, edit));
        if let Ok(parsed) = TrustRoot::parse(&bytes) {
            prop_assert!(parsed.threshold() >= 1 && parsed.threshold() <= parsed.keys().len());
        }
        let mut bytes = Report::Failed { code: "a".into(), reason: "b".into(), retryable: true }.encode();
        edits.iter().for_each(|edit| apply(&mut bytes, edit));
        if let Ok(report) = Report::decode(&bytes) {
            prop_assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
    }
}
