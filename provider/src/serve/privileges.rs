//! Who the provider is once its ports are open and its keys are read: another user, without capabilities.
//!
//! Users and groups are looked up in `/etc/passwd` and `/etc/group` only: a static program has no other directory. Must
//! be called before any thread is started; the kernel keeps these things per thread.

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

/// The user of the installed service, whom the warning of a provider that runs as root suggests.
pub(super) const SERVICE_USER: &str = "plasm";

/// Somebody to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct User {
    /// As it was given.
    pub(super) name: String,
    /// Its number.
    pub(super) uid: u32,
    /// Its own group.
    pub(super) gid: u32,
    /// All its groups.
    groups: Vec<u32>,
}

/// Why nobody of that name can be found.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnknownUser {
    /// There is no such entry.
    #[error("there is no user {0} in /etc/passwd")]
    Missing(String),
    /// There is one, and its numbers are not.
    #[error("the entry of {0} in /etc/passwd is damaged")]
    Damaged(String),
}

/// Finds a user by name.
pub(super) fn find(name: &str) -> Result<User, UnknownUser> {
    let read = |path: &str| fs::read_to_string(Path::new(path)).unwrap_or_default();
    find_in(name, &read("/etc/passwd"), &read("/etc/group"))
}

fn find_in(name: &str, passwd: &str, group: &str) -> Result<User, UnknownUser> {
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))
        .ok_or_else(|| UnknownUser::Missing(name.to_owned()))?;
    let number = |at: usize| entry.get(at).and_then(|field| field.parse().ok());
    let (Some(uid), Some(gid)) = (number(2), number(3)) else {
        return Err(UnknownUser::Damaged(name.to_owned()));
    };
    let further = group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, number, members] = fields[..] else {
            return None;
        };
        let is_member = members.split(',').any(|member| member == name);
        if is_member {
            number.parse::<u32>().ok()
        } else {
            None
        }
    });
    let mut groups = vec![gid];
    groups.extend(further.filter(|further| *further != gid));
    Ok(User {
        name: name.to_owned(),
        uid,
        gid,
        groups,
    })
}

/// Whether the caller is root, and could become somebody else.
pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Becomes `user`, for good.
pub(super) fn become_user(user: &User) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user.groups.iter().copied().map(Gid::from_raw).collect();
    empty_bounding_set(CapabilitySet::empty());
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// Gives up every capability, now and for whatever this process could start. Root keeps the right to read what belongs to
/// others, because that is what it was started as root for; the sandbox says where.
pub(super) fn drop_capabilities() -> io::Result<()> {
    let had = capabilities(None)?;
    let kept = if is_root() {
        // A container may not have given it.
        had.permitted & CapabilitySet::DAC_READ_SEARCH
    } else {
        CapabilitySet::empty()
    };
    empty_bounding_set(kept);
    // There are none on a kernel that does not know them.
    let _ = clear_ambient_capability_set();
    set_no_new_privs(true)?;
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    // A service manager that gave none may have forbidden the call as well.
    if had != sets {
        set_capabilities(None, sets)?;
    }
    Ok(())
}

fn empty_bounding_set(kept: CapabilitySet) {
    for capability in CapabilitySet::all().difference(kept).iter() {
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            // Without the right to, the set only bounds programs that this process may not start anyway.
            let _ = remove_capability_from_bounding_set(capability);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_their_groups() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nplasm:x:990:980::/:/sbin/nologin\nbad:x:a:1::/:/\nshort:x\n";
        let group =
            "root:x:0:\nplasm:x:980:plasm\nkeys:x:77:other,plasm\nother:x:78:plasmx\nbroken\n";
        let found = find_in("plasm", passwd, group).unwrap();
        assert_eq!((found.uid, found.gid), (990, 980));
        assert_eq!(found.groups, [980, 77]);
        let missing = |name: &str| find_in(name, passwd, group).unwrap_err();
        assert_eq!(missing("plas"), UnknownUser::Missing("plas".to_owned()));
        assert_eq!(missing("bad"), UnknownUser::Damaged("bad".to_owned()));
        assert_eq!(missing("short"), UnknownUser::Damaged("short".to_owned()));
        assert_eq!(missing(""), UnknownUser::Missing(String::new()));
    }
}
