//! The Debian package: the same twice, in order by its contents, and installed, upgraded, removed and purged in a copy of
//! this machine that nobody else sees.
//!
//! The copy is an overlay in a mount namespace: `dpkg` and everything it calls are this machine's own, and what they change
//! is gone afterwards. The network is one of its own, too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use boot_manifest::Timestamp;
use image::package::{self, Recipe};

use crate::run;

const TIME: Timestamp = Timestamp::from_unix(1_795_255_200);

/// The plasmd of `cargo appliance build`, or the one that the tests of the provider use.
fn plasmd() -> Option<PathBuf> {
    let built = std::env::var_os("PHASE_APPLIANCE_DIR").map(|dir| Path::new(&dir).join("plasmd"));
    let target = std::env::current_exe().ok()?;
    let beside = target.parent()?.parent()?.join("plasmd");
    built.into_iter().chain([beside]).find(|path| path.exists())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn make(plasmd: &Path, version: &str, folder: &Path) -> PathBuf {
    let recipe = Recipe {
        root: &root(),
        plasmd,
        version,
        time: TIME,
        // A plasmd with debugging information would take minutes.
        compression: "none",
    };
    package::write(&recipe, folder).unwrap()
}

/// A plasmd without debugging information, so that packing and installing are quick.
fn stripped(plasmd: &Path, folder: &Path) -> PathBuf {
    let small = folder.join("plasmd");
    let to = small.to_str().unwrap();
    if run("strip", &["-o", to, plasmd.to_str().unwrap()]).is_none() {
        fs::copy(plasmd, &small).unwrap();
    }
    small
}

#[test]
fn two_packages_are_the_same_and_in_order() {
    let Some(plasmd) = plasmd() else {
        skip!(
            "two_packages_are_the_same_and_in_order",
            "no plasmd was built"
        );
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plasmd = stripped(&plasmd, one.path());
    let first = make(&plasmd, "1.2.3", one.path());
    let second = make(&plasmd, "1.2.3", two.path());
    assert_eq!(first.file_name().unwrap(), "plasmd_1.2.3_amd64.deb");
    assert!(
        fs::read(&first).unwrap() == fs::read(&second).unwrap(),
        "two builds differ"
    );
    // Nothing but the package is left behind.
    assert_eq!(fs::read_dir(two.path()).unwrap().count(), 1);

    let deb = first.to_str().unwrap();
    let listing = run("dpkg-deb", &["--contents", deb]).unwrap();
    let listing = String::from_utf8(listing.stdout).unwrap();
    for line in listing.lines() {
        assert!(line.contains(" root/root "), "{line}");
        assert!(line.contains("2026-11-21"), "{line}");
        let mode = line.split(' ').next().unwrap();
        let is_fine = matches!(
            mode,
            "drwxr-xr-x" | "-rw-r--r--" | "-rwxr-xr-x" | "lrwxrwxrwx"
        );
        assert!(is_fine, "{line}");
    }
    for path in [
        "./usr/bin/plasmd",
        "./usr/bin/phase-fetch -> plasmd",
        "./usr/lib/systemd/system/plasmd.service",
        "./usr/lib/sysusers.d/plasmd.conf",
        "./etc/phase/plasmd.toml",
        "./usr/share/man/man1/plasmd.1.gz",
        "./usr/share/man/man1/phase-verify.1.gz",
        "./usr/share/bash-completion/completions/phase-fetch",
        "./usr/share/zsh/vendor-completions/_plasmd",
        "./usr/share/fish/vendor_completions.d/plasmd.fish",
        "./usr/share/doc/plasmd/copyright",
        "./usr/share/doc/plasmd/changelog.gz",
        "./usr/share/doc/plasmd/third-party-notices.gz",
        "./var/lib/plasm/artifacts/",
    ] {
        assert!(
            listing.lines().any(|line| line.ends_with(path)),
            "no {path} in\n{listing}"
        );
    }
    if let Some(lintian) = run_if_there("lintian", &["--fail-on", "error", deb]) {
        assert!(
            lintian.status.success(),
            "{}",
            String::from_utf8_lossy(&lintian.stdout)
        );
    }
    for script in ["postinst", "prerm", "postrm"] {
        let script = root().join("provider/debian").join(script);
        run("sh", &["-n", script.to_str().unwrap()]).unwrap();
    }
}

fn run_if_there(program: &str, arguments: &[&str]) -> Option<std::process::Output> {
    Command::new(program).args(arguments).output().ok()
}

#[test]
fn the_licences_of_what_is_linked_are_told_and_of_nothing_else() {
    let notices = package::notices::collect(&root()).unwrap();
    // A library, one in the middle of the graph, and the texts that their terms ask for.
    for part in [
        "  hyper ",
        "  ring ",
        "  tokio ",
        "Permission is hereby granted",
        "Apache License",
    ] {
        assert!(notices.contains(part), "{part:?} is missing");
    }
    // Only tests and the image tool use these.
    for other in ["  tempfile ", "  fatfs ", "  provider "] {
        assert!(!notices.contains(other), "{other:?} is not in the program");
    }
    assert!(
        !notices.contains("/registry/"),
        "it tells where it was built"
    );
}

/// What happens in the copy: a script whose lines must all succeed. It says what it checks, so that a failure has a place.
const LIFE: &str = r#"
set -eu
said() { echo "STEP $* after $SECONDS s"; }
# The index of manual pages is another package's affair, and slow.
deb() { dpkg --no-triggers --force-unsafe-io "$@" >/debs/log 2>&1 || { cat /debs/log; exit 1; }; }
ip link set lo up
export PATH=/fake:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive LC_ALL=C

said install
deb --install /debs/plasmd_1.0.0_amd64.deb
dpkg --verify plasmd >/debs/changed
test ! -s /debs/changed
test "$(plasmd --version)" = "plasmd @PROGRAM@"
test "$(phase-fetch --version)" = "phase-fetch @PROGRAM@"
getent passwd plasm | grep -q '/var/lib/plasm:.*nologin$'
getent group plasm >/dev/null
plasmd config check /etc/phase/plasmd.toml
test ! -e /fake/calls

said unit
if command -v systemd-analyze >/dev/null; then
    systemd-analyze verify --man=no /usr/lib/systemd/system/plasmd.service 2>&1 | grep -i plasmd && exit 1
fi

said serve
mkdir -p /var/lib/plasm/artifacts/stable/x86_64
echo a kernel >/var/lib/plasm/artifacts/stable/x86_64/vmlinuz
setpriv --reuid plasm --regid plasm --clear-groups --no-new-privs /usr/bin/plasmd serve --no-mdns --port 8080 --bind 127.0.0.1 >/debs/serve 2>&1 &
pid=$!
for try in $(seq 200); do curl -s -o /debs/health http://127.0.0.1:8080/health && break; kill -0 $pid || { cat /debs/serve; exit 1; }; read -t 0.05 nothing <>/debs/fifo || true; done
grep -q '"healthy"' /debs/health
test "$(curl -s http://127.0.0.1:8080/stable/x86_64/vmlinuz)" = "a kernel"
grep -q "^Uid:.*$(id -u plasm)" /proc/$pid/status
plasmd provider status >/debs/status
kill $pid; wait $pid

said upgrade
echo 'channel = "testing"' >>/etc/phase/plasmd.toml
deb --install /debs/plasmd_1.1.0_amd64.deb
test "$(dpkg-query --show --showformat='${Version}' plasmd)" = 1.1.0
tail -1 /etc/phase/plasmd.toml | grep -q testing
test -e /var/lib/plasm/artifacts/stable/x86_64/vmlinuz

said remove
deb --remove plasmd
test ! -e /usr/bin/plasmd
test ! -e /usr/bin/phase-verify
test ! -e /usr/lib/systemd/system/plasmd.service
test -e /etc/phase/plasmd.toml
# Some were made when it served.
mkdir -p /var/lib/plasm/tls-v1 /var/lib/plasm/dht-v1 /var/lib/plasm/machines-v1
echo secret >/var/lib/plasm/tls-v1/key.pem
echo secret >/var/lib/plasm/dht-v1/peer.key

said purge
deb --purge plasmd
test ! -e /etc/phase/plasmd.toml
test ! -e /var/lib/plasm/tls-v1
test ! -e /var/lib/plasm/dht-v1
test ! -e /var/lib/plasm/machines-v1
test -e /var/lib/plasm/artifacts/stable/x86_64/vmlinuz
test ! -e /fake/calls

said systemd
# The same under something that looks like systemd, and writes down what it is asked.
mkdir -p /run/systemd/system
for name in systemctl deb-systemd-invoke deb-systemd-helper; do
    printf '#!/bin/sh\necho %s "$@" >>/fake/calls\n' $name >/fake/$name
    chmod 755 /fake/$name
done
deb --install /debs/plasmd_1.0.0_amd64.deb
grep -qx 'deb-systemd-helper enable plasmd.service' /fake/calls
grep -qx 'deb-systemd-invoke start plasmd.service' /fake/calls
rm /fake/calls
deb --install /debs/plasmd_1.1.0_amd64.deb
grep -qx 'deb-systemd-invoke restart plasmd.service' /fake/calls
grep -q ' stop ' /fake/calls && exit 1
rm /fake/calls
# A service that does not start must not break the package.
printf '#!/bin/sh\nexit 1\n' >/fake/deb-systemd-invoke
deb --install /debs/plasmd_1.1.0_amd64.deb
grep -q 'plasmd doctor says why' /debs/log
printf '#!/bin/sh\necho invoke "$@" >>/fake/calls\n' >/fake/deb-systemd-invoke
deb --purge plasmd
grep -q '^invoke stop plasmd.service' /fake/calls
grep -q '^deb-systemd-helper purge plasmd.service' /fake/calls
said done
"#;

/// Makes the copy at `$1` and runs `LIFE` in it.
const COPY: &str = r#"
set -eu
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mount -t proc proc "$1/root/proc"
mount -t tmpfs none "$1/root/run"
mount -t tmpfs none "$1/root/tmp"
mkdir -p "$1/root/fake" "$1/root/debs"
cp "$2"/*.deb "$1/root/debs/"
mkfifo "$1/root/debs/fifo"
rm -f "$1/root/usr/sbin/policy-rc.d"
exec chroot "$1/root" /bin/bash -c "$3"
"#;

#[test]
fn installed_upgraded_removed_and_purged() {
    const NAME: &str = "installed_upgraded_removed_and_purged";
    let Some(plasmd) = plasmd() else {
        skip!(NAME, "no plasmd was built");
    };
    let can = "mount -t tmpfs none /mnt && mkdir /mnt/u /mnt/w /mnt/m && \
               mount -t overlay o -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/m && \
               command -v setpriv && command -v curl && test ! -e /var/lib/dpkg/info/plasmd.list";
    let probe = Command::new("unshare")
        .args(["--mount", "--net", "sh", "-c", can])
        .output();
    match probe {
        Ok(output) if output.status.success() => {}
        Ok(output) => skip!(
            NAME,
            "no overlay of this machine can be made, or plasmd is installed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ),
        Err(error) => skip!(NAME, "unshare cannot be run: {error}"),
    }
    let (debs, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plasmd = stripped(&plasmd, place.path());
    for version in ["1.0.0", "1.1.0"] {
        make(&plasmd, version, debs.path());
    }
    let life = LIFE.replace("@PROGRAM@", env!("CARGO_PKG_VERSION"));
    let output = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "bash",
            "-c",
            COPY,
            "bash",
        ])
        .args([place.path(), debs.path()])
        .arg(&life)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("STEP done "),
        "{told}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    println!("{told}");
    // This machine was not touched.
    assert!(!Path::new("/var/lib/dpkg/info/plasmd.list").exists());
}
