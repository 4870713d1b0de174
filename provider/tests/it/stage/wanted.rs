//! `--want`: one manifest and no other, from those that have it.

use super::*;

/// A role that wants this image of these providers.
fn wanting(image: &Image, providers: &[&Server]) -> Role {
    let digest = Digest::of(&image.manifest).to_string();
    let urls: Vec<String> = providers.iter().map(|one| one.url("")).collect();
    let mut place = vec!["--want", &digest, "--no-mdns", "--no-peers", "--no-reports"];
    for url in &urls {
        place.extend(["--provider", url]);
    }
    Role::start_with(&place, &image.root(), 0)
}

fn numbered(sequence: u64) -> Arc<Image> {
    let files = Image::new().files;
    Arc::new(Image::numbered(sequence, days_ago(0), files))
}

fn handed_over(reports: &[(Report, Vec<OwnedFd>)]) -> (String, Vec<u8>) {
    let Some((Report::Handoff(record), fds)) = reports.last() else {
        panic!("no handoff: {reports:?}");
    };
    let mut manifest = Vec::new();
    let mut file = File::from(fds[0].try_clone().unwrap());
    file.rewind().unwrap();
    file.read_to_end(&mut manifest).unwrap();
    (record.origin.clone(), manifest)
}

#[test]
fn only_those_that_have_it_are_asked_for_its_parts() {
    let (older, wanted, newer) = (numbered(7), numbered(8), numbered(9));
    let servers = [&older, &wanted, &newer].map(|image| provider(image, |_, _, _| None));
    let all: Vec<&Server> = servers.iter().collect();
    let (reports, code) = wanting(&wanted, &all).all();
    assert_eq!(code, Some(0), "{reports:?}");
    let (origin, manifest) = handed_over(&reports);
    assert_eq!(origin, servers[1].url(""));
    assert!(manifest == wanted.manifest);
    for other in [&servers[0], &servers[2]] {
        let targets: Vec<String> = other.requests().into_iter().map(|one| one.target).collect();
        assert_eq!(targets, ["/stable/x86_64/manifest.json"]);
    }
}

#[test]
fn a_liar_beside_a_good_one_costs_nothing() {
    let wanted = numbered(8);
    let liar = provider(&wanted, |request, stream, bytes| {
        let mut bytes = bytes.to_vec();
        if let Some(byte) = bytes.get_mut(100) {
            *byte ^= 1;
        }
        Some(file(request, stream, &bytes))
    });
    let good = provider(&wanted, |_, _, _| None);
    let (reports, code) = wanting(&wanted, &[&liar, &good]).all();
    assert_eq!(code, Some(0), "{reports:?}");
    assert_eq!(handed_over(&reports).0, good.url(""));
}

#[test]
fn a_provider_that_only_lies_is_given_up_at_once() {
    let wanted = numbered(8);
    let liar = provider(&wanted, |request, stream, bytes| {
        let bytes = String::from_utf8_lossy(bytes).replace("stable", "stoble");
        Some(file(request, stream, bytes.as_bytes()))
    });
    let (code, _) = wanting(&wanted, &[&liar]).refusal();
    assert_eq!(code, "view-differs");
}

#[test]
fn it_waits_for_one_that_is_behind() {
    let (older, wanted) = (numbered(7), numbered(8));
    let asked = AtomicUsize::new(0);
    let server = provider(&wanted, move |request, stream, _| {
        let is_manifest = request.target.ends_with("manifest.json");
        let is_first = is_manifest && asked.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then(|| file(request, stream, &older.manifest))
    });
    let (reports, code) = wanting(&wanted, &[&server]).all();
    assert_eq!(code, Some(0), "{reports:?}");
    assert!(handed_over(&reports).1 == wanted.manifest);
}

/// Fault 22: a clock that is wrong, by decades or by a month, must not come between a machine and what init decided.
#[test]
fn times_do_not_matter_to_who_wants_just_this_one() {
    for days in [40, -4_000] {
        let files = Image::new().files;
        let wanted = Arc::new(Image::numbered(8, days_ago(days), files));
        let server = provider(&wanted, |_, _, _| None);
        let (reports, code) = wanting(&wanted, &[&server]).all();
        assert_eq!(code, Some(0), "{reports:?}");
        assert!(handed_over(&reports).1 == wanted.manifest);
    }
}

#[test]
fn several_providers_need_a_digest() {
    let image = numbered(8);
    let place = ["--provider", "http://a", "--provider", "http://b"];
    let (reports, code) = Role::start_with(&place, &image.root(), 0).all();
    assert_eq!(code, Some(2), "{reports:?}");
}

#[test]
fn the_chain_to_new_keys_is_handed_over_too() {
    let files = Image::new().files;
    let image = Arc::new(Image::numbered(8, days_ago(0), files).rotated(1));
    let server = provider(&image, |_, _, _| None);
    let (reports, code) = wanting(&image, &[&server]).all();
    assert_eq!(code, Some(0), "{reports:?}");
    let Some((Report::Handoff(record), fds)) = reports.last() else {
        panic!("no handoff: {reports:?}");
    };
    assert_eq!(
        record.fds,
        ["manifest", "kernel", "initramfs", "rootfs", "roots"]
    );
    let mut roots = Vec::new();
    let mut file = File::from(fds[4].try_clone().unwrap());
    file.rewind().unwrap();
    file.read_to_end(&mut roots).unwrap();
    assert_eq!(Some(roots), image.roots);
    assert!(fcntl_get_seals(&fds[4]).unwrap().contains(SealFlags::WRITE));
}
