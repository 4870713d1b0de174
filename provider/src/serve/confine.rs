//! The step from a process that has opened its ports and read its keys to one that can do little more than serve: another
//! user, no capabilities, and the sandbox. Everything after this step works with what is left.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::exit::CommandError;
use crate::serve::args::ConfineArgs;
use crate::serve::privileges::{self, SERVICE_USER, User};
use crate::serve::sandbox::{self, Confinement, Mode, Plan};

/// The user to become, checked before anything else is done.
pub(super) fn user(args: &ConfineArgs) -> Result<Option<User>, CommandError> {
    let Some(name) = &args.user else {
        return Ok(None);
    };
    let user = privileges::find(name).map_err(|error| {
        CommandError::local(format!("--user: {error}"))
            .hint("create it (useradd --system), or name another")
    })?;
    if privileges::is_root() {
        return Ok(Some(user));
    }
    if rustix::process::geteuid().as_raw() == user.uid {
        return Ok(None);
    }
    Err(
        CommandError::local(format!("--user {name}: only root can become another user"))
            .hint("start it as root or as that user, or without --user"),
    )
}

/// What serving reads and writes from now on: `files` are those that a reload reads, `state` is where it writes.
pub(super) fn plan(artifacts: &Path, files: &[PathBuf], state: &[&Path]) -> Plan {
    // What this process is, for /metrics.
    let mut read = vec![artifacts.to_owned(), PathBuf::from("/proc/self")];
    read.extend(files.iter().flat_map(|file| places(file)));
    Plan {
        read,
        write: state.iter().map(|folder| folder.to_path_buf()).collect(),
        ..Plan::default()
    }
}

/// Adds what watching the provider needs: the access log is opened again after it was renamed away, and the control socket
/// is taken away at the end.
pub(super) fn watched(plan: &mut Plan, access_log: Option<&Path>, control: Option<&Path>) {
    for file in [access_log, control].into_iter().flatten() {
        // Standard output has no file, and a device is not renamed.
        if file == Path::new("-") {
            continue;
        }
        let place = match file.starts_with("/dev") {
            true => file.to_owned(),
            false => folder_of(file),
        };
        plan.write.push(place);
    }
}

/// Where a file is found when it is read again: careful people replace files, so it is another file in the same folder,
/// and the folder may be full of links into another one.
fn places(file: &Path) -> Vec<PathBuf> {
    let mut places = vec![folder_of(file)];
    if let Ok(real) = file.canonicalize() {
        places.push(folder_of(&real));
    }
    places
}

/// The folder of a file; of one in the root directory just the file, because below that is everything.
fn folder_of(file: &Path) -> PathBuf {
    let folder = match file.parent() {
        Some(folder) if folder.as_os_str().is_empty() => PathBuf::from("."),
        Some(folder) => folder.to_owned(),
        None => return file.to_owned(),
    };
    let is_root = folder
        .canonicalize()
        .is_ok_and(|folder| folder == Path::new("/"));
    if is_root { file.to_owned() } else { folder }
}

/// Becomes `user`, gives up what is left, and enters the sandbox. `mine` are folders that will belong to the user.
pub(super) fn confine(
    args: &ConfineArgs,
    user: Option<&User>,
    plan: &Plan,
    mine: &[&Path],
) -> Result<Confinement, CommandError> {
    if let Some(user) = user {
        let failed = |what: &str, error: std::io::Error| {
            CommandError::local(format!("--user {}: {what}: {error}", user.name))
        };
        for folder in mine {
            let (uid, gid) = (Some(user.uid), Some(user.gid));
            give(folder, uid, gid).map_err(|error| failed(&folder.display().to_string(), error))?;
        }
        privileges::become_user(user).map_err(|error| failed("cannot become that user", error))?;
    }
    if args.sandbox == Mode::Off {
        return Ok(Confinement::NONE);
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads > 1 {
        // Users and rules are those of a thread: the others would keep everything.
        return Err(CommandError::local(format!(
            "cannot be confined: {threads} threads run already"
        )));
    }
    let cannot = |error: String| {
        CommandError::local(format!("cannot be confined: {error}")).hint(
            "--sandbox auto serves with as much of it as this kernel has, --sandbox off with none",
        )
    };
    if let Err(error) = privileges::drop_capabilities() {
        if args.sandbox == Mode::Require {
            return Err(cannot(format!("capabilities: {error}")));
        }
        tracing::warn!(%error, "capabilities cannot be dropped");
    }
    let (confinement, missing) =
        sandbox::enter(args.sandbox, plan).map_err(|error| cannot(error.to_string()))?;
    for error in missing {
        tracing::warn!(%error, "a part of the sandbox cannot be had");
    }
    Ok(confinement)
}

/// What an operator should know about it.
pub(super) fn warn(mode: Mode, confinement: Confinement) {
    if privileges::is_root() {
        tracing::warn!(
            "running as root: --user NAME gives that up once the ports are open (the installed service runs as {SERVICE_USER})"
        );
    }
    if mode != Mode::Off && !confinement.is_complete() {
        tracing::warn!(%confinement, "this kernel cannot confine the provider completely");
    }
}

/// A folder and the files in it change their owner. The user may have been there before: what it put there in their place,
/// links of both kinds, leads nowhere.
fn give(folder: &Path, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let opened = |path: &Path, flags: i32| {
        File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | flags)
            .open(path)
    };
    let held = opened(folder, libc::O_DIRECTORY)?;
    fchown(&held, uid, gid)?;
    // The folder that is held, whatever has its name by now.
    let held = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    for entry in std::fs::read_dir(&held)? {
        let entry = entry?;
        if !entry.file_type()?.is_file() {
            continue;
        }
        let file = opened(&held.join(entry.file_name()), 0)?;
        let facts = file.metadata()?;
        if facts.is_file() && facts.nlink() == 1 {
            fchown(&file, uid, gid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_again_after_they_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (live, archive) = (folder.path().join("live"), folder.path().join("archive"));
        for made in [&live, &archive] {
            std::fs::create_dir(made).unwrap();
        }
        std::fs::write(archive.join("key1.pem"), "").unwrap();
        let link = live.join("key.pem");
        std::os::unix::fs::symlink("../archive/key1.pem", &link).unwrap();
        let archive = archive.canonicalize().unwrap();
        assert_eq!(places(&link), [live, archive]);
        assert_eq!(
            places(Path::new("/no-such-key"))[0],
            Path::new("/no-such-key")
        );
        assert_eq!(places(Path::new("no-such-key"))[0], Path::new("."));
    }

    #[test]
    fn nothing_lets_it_write_everywhere() {
        let mut plan = plan(Path::new("/srv"), &[], &[]);
        let log = Path::new("/usr/../access.log");
        watched(&mut plan, Some(log), Some(Path::new("/control.sock")));
        assert_eq!(plan.write, [log, Path::new("/control.sock")]);
        plan.write.clear();
        watched(&mut plan, Some(Path::new("-")), None);
        watched(&mut plan, Some(Path::new("/dev/stderr")), None);
        watched(&mut plan, Some(Path::new("a.log")), None);
        watched(&mut plan, Some(Path::new("/srv/log/a.log")), None);
        assert_eq!(
            plan.write,
            ["/dev/stderr", ".", "/srv/log"].map(PathBuf::from)
        );
    }

    #[test]
    fn links_in_a_folder_that_is_given_away_lead_nowhere() {
        if !privileges::is_root() {
            eprintln!(
                "SKIPPED: links_in_a_folder_that_is_given_away_lead_nowhere: only root gives files away"
            );
            return;
        }
        const USER: Option<u32> = Some(65_534);
        let folder = tempfile::tempdir().unwrap();
        let (outer, inner) = (folder.path().join("outer"), folder.path().join("inner"));
        for made in [&outer, &inner] {
            std::fs::create_dir(made).unwrap();
        }
        for made in [outer.join("a"), outer.join("b"), inner.join("own")] {
            std::fs::write(made, "").unwrap();
        }
        std::os::unix::fs::symlink(outer.join("a"), inner.join("link")).unwrap();
        std::fs::hard_link(outer.join("b"), inner.join("hard")).unwrap();
        give(&inner, USER, USER).unwrap();
        let owner = |path: PathBuf| std::fs::metadata(path).unwrap().uid();
        assert_eq!(owner(inner.clone()), 65_534);
        assert_eq!(owner(inner.join("own")), 65_534);
        assert_eq!(owner(outer.join("a")), 0);
        assert_eq!(owner(outer.join("b")), 0);
        // The folder itself may be a link as well.
        let link = folder.path().join("tls-v1");
        std::os::unix::fs::symlink(&outer, &link).unwrap();
        assert!(give(&link, USER, USER).is_err());
        assert_eq!(owner(outer), 0);
    }
}
