//! Scripts for iPXE, as text. They say what they do, and after a failure they say what failed, wait, and ask again: what
//! is served may have changed by then, and a machine in a rack has nobody to press a key.
//!
//! iPXE knows no quotes: words end at blanks, `#` begins a comment, `||`, `&&` and `;` end a command, and `${..}` is
//! replaced. So what goes into a script is checked word by word ([`Target::linux`]), not escaped. Only commands that an
//! iPXE of 2019 knows are used, because that is what distributions ship.

use std::fmt::Write as _;
use std::time::Duration;

use crate::Mac;

/// How long a script waits before it asks again.
const RETRY: Duration = Duration::from_secs(5);

/// Entries of a menu: what a screen of 25 lines shows.
pub const MENU_ENTRIES_MAX: usize = 20;

/// Bytes of one line of a script; iPXE reads them into memory of a few hundred KiB, kernels take 4 KiB of arguments.
const LINE_SIZE_MAX: usize = 8 * 1024;

/// Something can be no part of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotForIpxe {
    /// A word that iPXE would not pass on.
    #[error(
        "iPXE takes no word that is `||`, `&&` or `;` or begins with `#`, no `${{`, and no control characters"
    )]
    Word,
    /// A URL with more in it than a URL has.
    #[error("no URL that iPXE could fetch")]
    Url,
    /// More than a line can hold.
    #[error("longer than a line of a script may be")]
    Long,
}

/// Something to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    label: String,
    program: Program,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Program {
    Linux {
        kernel: String,
        initrds: Vec<String>,
        arguments: String,
    },
    Efi {
        url: String,
    },
}

impl Target {
    /// A kernel with its initial ramdisks and arguments, all by URL.
    pub fn linux(
        label: &str,
        kernel: &str,
        initrds: &[String],
        arguments: &str,
    ) -> Result<Self, NotForIpxe> {
        for url in initrds.iter().map(String::as_str).chain([kernel]) {
            is_url(url)?;
        }
        is_speakable(arguments)?;
        Ok(Self {
            label: plain(label),
            program: Program::Linux {
                kernel: kernel.to_owned(),
                initrds: initrds.to_vec(),
                arguments: arguments.to_owned(),
            },
        })
    }

    /// An EFI program, such as a kernel with all it needs inside.
    pub fn efi(label: &str, url: &str) -> Result<Self, NotForIpxe> {
        is_url(url)?;
        Ok(Self {
            label: plain(label),
            program: Program::Efi {
                url: url.to_owned(),
            },
        })
    }

    /// The commands that load and start it. Each goes to `failed` when it fails.
    fn commands(&self) -> String {
        match &self.program {
            Program::Efi { url } => format!("chain --autofree {url} || goto failed\n"),
            Program::Linux {
                kernel,
                initrds,
                arguments,
            } => {
                let mut line = format!("kernel {kernel}");
                // A kernel started as an EFI program finds its ramdisks by these names; on a BIOS it ignores them.
                for initrd in initrds {
                    let _ = write!(line, " initrd={}", last_name(initrd));
                }
                if !arguments.is_empty() {
                    let _ = write!(line, " {arguments}");
                }
                let mut out = line + " || goto failed\n";
                for initrd in initrds {
                    let name = last_name(initrd);
                    let _ = writeln!(out, "initrd --name {name} {initrd} || goto failed");
                }
                out + "boot || goto failed\n"
            }
        }
    }
}

/// Where a machine's script is, after the address and port of the server.
pub fn script_path(mac: Mac) -> String {
    let mac = mac.to_string().replace(':', "-");
    format!("boot.ipxe?mac={mac}")
}

/// What a machine's iPXE is asked to tell of it.
const IDENTITY: &str = "uuid=${uuid}&platform=${platform}&buildarch=${buildarch}\
&manufacturer=${manufacturer:uristring}&product=${product:uristring}&serial=${serial:uristring}";

/// A script that asks again with what iPXE knows of its machine; without `mac`, with the address of the card that the
/// script came over.
pub fn identify(url: &str, mac: Option<Mac>) -> Result<String, NotForIpxe> {
    is_url(url)?;
    let mac = mac.map_or("${netX/mac:hexhyp}".to_owned(), |mac| {
        mac.to_string().replace(':', "-")
    });
    let seconds = RETRY.as_secs();
    Ok(head()
        + &format!(
            ":again\n\
             chain --autofree --replace {url}?mac={mac}&{IDENTITY} || goto failed\n\
             :failed\n\
             echo Phase: the boot server did not answer, asking again in {seconds} seconds\n\
             sleep {seconds}\n\
             goto again\n"
        ))
}

/// A script that leaves iPXE: firmware goes on with what comes next.
pub fn leave(why: &str) -> String {
    format!("{}echo Phase: {}\nexit 1\n", head(), plain(why))
}

/// A script that boots one thing. `own_url` is where the script itself came from.
pub fn boot(own_url: &str, target: &Target) -> Result<String, NotForIpxe> {
    let mut script = head();
    let _ = writeln!(script, "echo Phase: starting {}", target.label);
    script += &target.commands();
    script += &failed(own_url, "it could not be started")?;
    Ok(script)
}

/// A script that lets somebody choose. After `wait` it takes the first; it waits for ever if there is none.
pub fn menu(
    own_url: &str,
    title: &str,
    targets: &[Target],
    wait: Option<Duration>,
) -> Result<String, NotForIpxe> {
    let targets = targets.get(..MENU_ENTRIES_MAX).unwrap_or(targets);
    let mut script = head();
    let _ = writeln!(script, "menu {}", plain(title));
    for (number, target) in targets.iter().enumerate() {
        let _ = writeln!(script, "item target{number} {}", target.label);
    }
    script += "item local Boot from local disk\nitem shell iPXE shell\n";
    let wait = wait.map_or(String::new(), |wait| {
        format!("--timeout {} ", wait.as_millis())
    });
    let _ = writeln!(
        script,
        "choose {wait}--default target0 chosen || goto shell\ngoto ${{chosen}}"
    );
    for (number, target) in targets.iter().enumerate() {
        let _ = writeln!(script, ":target{number}");
        let _ = writeln!(script, "echo Phase: starting {}", target.label);
        script += &target.commands();
    }
    script += &failed(own_url, "it could not be started")?;
    script += ":shell\nshell\ngoto again\n:local\n";
    script += "iseq ${platform} efi && goto leave || goto disk\n";
    script += LEAVE;
    Ok(script)
}

/// A script that goes on with the machine's own disk (C53): a BIOS starts its first disk, and whatever does not let itself
/// be started that way is left to the firmware with an error, at which it tries what comes next.
pub fn local_disk() -> String {
    let mut script = head();
    script += "echo Phase: this machine boots from its own disk\n";
    script += "iseq ${platform} efi && goto leave || goto disk\n";
    script + LEAVE
}

/// A script that tells why there is nothing to boot, and asks again later.
pub fn nothing(own_url: &str, why: &str) -> Result<String, NotForIpxe> {
    let mut script = head();
    script += &failed(own_url, why)?;
    Ok(script)
}

const LEAVE: &str = ":disk\nsanboot --no-describe --drive 0x80 || goto leave\n:leave\nexit 1\n";

fn head() -> String {
    "#!ipxe\n".to_owned()
}

/// The end of every script: what was wrong, and the same question again. The error's number is the name of its page.
fn failed(own_url: &str, why: &str) -> Result<String, NotForIpxe> {
    is_url(own_url)?;
    let seconds = RETRY.as_secs();
    let joint = if own_url.contains('?') { '&' } else { '?' };
    Ok(format!(
        ":failed\n\
         set code ${{errno:hexraw}}\n\
         echo Phase: {why}\n\
         iseq ${{code}} 00000000 || echo Phase: https://ipxe.org/${{code}} explains the error\n\
         imgfree ||\n\
         :again\n\
         echo Phase: asking again in {seconds} seconds\n\
         sleep {seconds}\n\
         chain --autofree --replace {own_url}{joint}failed=${{code}} || goto again\n",
        why = plain(why),
    ))
}

/// Text for the screen, with nothing in it that iPXE would take for its own.
fn plain(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " .,:-_/()+".contains(c);
    let text = text.chars().take(crate::limits::TEXT_SIZE_MAX);
    let text: String = text.map(|c| if allowed(c) { c } else { '?' }).collect();
    text.trim().to_owned()
}

/// Whether iPXE passes the words on as they are.
fn is_speakable(text: &str) -> Result<(), NotForIpxe> {
    if text.len() > LINE_SIZE_MAX {
        return Err(NotForIpxe::Long);
    }
    let word = |word: &str| !matches!(word, "||" | "&&" | ";") && !word.starts_with('#');
    let printable = text.chars().all(|c| !c.is_control());
    if printable && !text.contains("${") && text.split(' ').all(word) {
        Ok(())
    } else {
        Err(NotForIpxe::Word)
    }
}

fn is_url(text: &str) -> Result<(), NotForIpxe> {
    is_speakable(text)?;
    let is_one_word = text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
    if is_one_word && text.contains("://") {
        Ok(())
    } else {
        Err(NotForIpxe::Url)
    }
}

/// The last name of a URL's path.
fn last_name(url: &str) -> &str {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "http://192.0.2.1:8080/boot.ipxe?mac=52-54-00-00-00-01";

    fn target() -> Target {
        let initrds = ["http://192.0.2.1/s/x86_64/initramfs.img".to_owned()];
        let kernel = "http://192.0.2.1/s/x86_64/vmlinuz";
        Target::linux("stable x86_64", kernel, &initrds, "quiet a=b").unwrap()
    }

    #[test]
    fn one_target_is_loaded_and_after_a_failure_asked_for_again() {
        // C16: an iPXE that failed asks again instead of standing still.
        let expected = "#!ipxe
echo Phase: starting stable x86_64
kernel http://192.0.2.1/s/x86_64/vmlinuz initrd=initramfs.img quiet a=b || goto failed
initrd --name initramfs.img http://192.0.2.1/s/x86_64/initramfs.img || goto failed
boot || goto failed
:failed
set code ${errno:hexraw}
echo Phase: it could not be started
iseq ${code} 00000000 || echo Phase: https://ipxe.org/${code} explains the error
imgfree ||
:again
echo Phase: asking again in 5 seconds
sleep 5
chain --autofree --replace http://192.0.2.1:8080/boot.ipxe?mac=52-54-00-00-00-01&failed=${code} || goto again
";
        assert_eq!(boot(OWN, &target()).unwrap(), expected);
    }

    #[test]
    fn a_machine_is_asked_who_it_is() {
        let url = "http://192.0.2.1/boot.ipxe";
        let script = identify(url, None).unwrap();
        let asks = format!(
            "chain --autofree --replace {url}?mac=${{netX/mac:hexhyp}}&uuid=${{uuid}}&platform=${{platform}}&"
        );
        assert!(script.contains(&asks), "{script}");
        let mac = "52:54:00:12:34:56".parse().unwrap();
        let script = identify(url, Some(mac)).unwrap();
        assert!(script.contains("?mac=52-54-00-12-34-56&uuid="), "{script}");
        assert!(identify("x", None).is_err());
        assert_eq!(leave("no ${x}"), "#!ipxe\necho Phase: no ??x?\nexit 1\n");
    }

    #[test]
    fn a_menu_has_every_target_the_disk_and_the_shell() {
        let efi = Target::efi("a b", "http://192.0.2.1/b/phase.efi").unwrap();
        let wait = Some(Duration::from_secs(10));
        let script = menu(OWN, "Phase", &[target(), efi], wait).unwrap();
        for line in [
            "item target0 stable x86_64",
            "item target1 a b",
            "choose --timeout 10000 --default target0 chosen || goto shell",
            "goto ${chosen}",
            "chain --autofree http://192.0.2.1/b/phase.efi || goto failed",
            ":local",
            "sanboot --no-describe --drive 0x80 || goto leave",
        ] {
            assert!(
                script.lines().any(|known| known == line),
                "{line}:\n{script}"
            );
        }
        let jumps = script.split("goto ").skip(1);
        let jumps = jumps.filter_map(|rest| rest.split_whitespace().next());
        for label in jumps.filter(|label| *label != "${chosen}") {
            assert!(
                script.contains(&format!("\n:{label}\n")),
                "{label}:\n{script}"
            );
        }
    }

    #[test]
    fn the_local_disk_is_started_or_left_to_the_firmware() {
        // C53
        let script = local_disk();
        assert!(script.ends_with("--drive 0x80 || goto leave\n:leave\nexit 1\n"));
        assert!(script.contains("iseq ${platform} efi && goto leave"));
    }

    #[test]
    fn what_ipxe_would_take_for_commands_is_refused() {
        let linux = |arguments: &str| Target::linux("x", "http://a/b", &[], arguments).err();
        assert_eq!(linux("a=1 b"), None);
        assert_eq!(linux("a|b c;d e&&f"), None);
        for arguments in [
            "a || shell",
            "a && b",
            "; reboot",
            "a #b",
            "${net0/mac}",
            "a\nshell",
        ] {
            assert_eq!(linux(arguments), Some(NotForIpxe::Word), "{arguments}");
        }
        assert_eq!(linux(&"x".repeat(9000)), Some(NotForIpxe::Long));
        for url in ["", "vmlinuz", "http://a/b c", "http://a/\u{e4}"] {
            assert_eq!(Target::efi("x", url), Err(NotForIpxe::Url), "{url}");
        }
        let label = Target::efi("a || ${b}\nshell", "http://a/b").unwrap().label;
        assert_eq!(label, "a ?? ??b??shell");
        assert!(nothing("x", "why").is_err());
    }
}
