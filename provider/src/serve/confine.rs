//! The step from a process that has opened its ports and read its keys to one that can do little more than serve: another
//! user, no capabilities, and the sandbox. Everything after this step works with what is left.

use std::os::unix::fs::chown;
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
pub(super) fn plan(artifacts: &Path, files: &[PathBuf], state: Option<&Path>) -> Plan {
    // What this process is, for /metrics.
    let mut read = vec![artifacts.to_owned(), PathBuf::from("/proc/self")];
    read.extend(files.iter().flat_map(|file| places(file)));
    Plan {
        read,
        write: state.map(Path::to_owned).into_iter().collect(),
        connect: Vec::new(),
    }
}

/// Adds what watching the provider needs: the access log is opened again after it was renamed away, and the control socket
/// is taken away at the end.
pub(super) fn watched(plan: &mut Plan, access_log: Option<&Path>, control: Option<&Path>) {
    for file in [access_log, control].into_iter().flatten() {
        match file.parent() {
            // Standard output has no file, and a device is not renamed.
            _ if file == Path::new("-") => {}
            _ if file.starts_with("/dev") => plan.write.push(file.to_owned()),
            Some(folder) if folder.as_os_str().is_empty() => plan.write.push(PathBuf::from(".")),
            Some(folder) => plan.write.push(folder.to_owned()),
            None => {}
        }
    }
}

/// Where a file is found when it is read again: careful people replace files, so it is another file in the same folder,
/// and the folder may be full of links into another one.
fn places(file: &Path) -> Vec<PathBuf> {
    let folder = |file: &Path| match file.parent() {
        // Not everything that there is.
        Some(parent) if parent == Path::new("/") => file.to_owned(),
        Some(parent) if parent.as_os_str().is_empty() => PathBuf::from("."),
        Some(parent) => parent.to_owned(),
        None => file.to_owned(),
    };
    let mut places = vec![folder(file)];
    if let Ok(real) = file.canonicalize() {
        places.push(folder(&real));
    }
    places
}

/// Becomes `user`, gives up what is left, and enters the sandbox. `mine` will belong to the user.
pub(super) fn confine(
    args: &ConfineArgs,
    user: Option<&User>,
    plan: &Plan,
    mine: Option<&Path>,
) -> Result<Confinement, CommandError> {
    if let Some(user) = user {
        let failed = |what: &str, error: std::io::Error| {
            CommandError::local(format!("--user {}: {what}: {error}", user.name))
        };
        if let Some(folder) = mine {
            give(folder, user).map_err(|error| failed(&folder.display().to_string(), error))?;
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

/// A folder and the files in it change their owner.
fn give(folder: &Path, user: &User) -> std::io::Result<()> {
    let (uid, gid) = (Some(user.uid), Some(user.gid));
    chown(folder, uid, gid)?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            chown(entry.path(), uid, gid)?;
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
}
