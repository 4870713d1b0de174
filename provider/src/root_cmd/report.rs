//! What the root commands say, as text and as JSON.

use std::fmt::Write as _;

use boot_manifest::{KeyId, Role, RoleName, TrustRoot};
use serde_json::{Map, Value, json};

/// What kind of file is shown, and what was checked.
pub(super) enum Shown<'a> {
    /// A trust root, which is believed by where it lies.
    Root,
    /// The next root, with those who claim to have signed it; whether it follows the root that was named.
    Link(&'a [KeyId], bool),
    /// A chain that was followed so many steps.
    Chain(u64),
}

fn ids(ids: &[KeyId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    if ids.is_empty() {
        "nobody".to_owned()
    } else {
        ids.join(", ")
    }
}

/// Who may sign what.
pub(super) fn root(name: &str, root: &TrustRoot) -> String {
    let mut text = format!("trust root  {name}\ngeneration  {}\n", root.generation());
    for role in RoleName::ALL {
        let keys = root.role(role);
        let note = if root.has_own(role) {
            format!(
                "{} ({} of {} must sign)",
                ids(&keys.key_ids()),
                keys.threshold(),
                keys.keys().len()
            )
        } else {
            "the release keys".to_owned()
        };
        let _ = writeln!(text, "{:<11} {note}", role.as_str());
    }
    if root.is_development() {
        text += "NOTE        these are development keys: whoever has the build machine can sign\n";
    }
    text
}

pub(super) fn signers(signers: &[KeyId]) -> String {
    format!("signed by   {}\n", ids(signers))
}

/// Whose signatures the next root needs.
pub(super) fn needed(before: &TrustRoot, next: &TrustRoot) -> String {
    let of = |role: &Role| format!("{} of {}", role.threshold(), ids(&role.key_ids()));
    let (old, new) = (before.role(RoleName::Root), next.role(RoleName::Root));
    let mut text = format!("needs       {}\n", of(old));
    if old != new {
        let _ = writeln!(text, "and         {}", of(new));
    }
    text
}

pub(super) fn shown(
    name: &str,
    trust_root: &TrustRoot,
    shown: &Shown<'_>,
    as_json: bool,
) -> String {
    if as_json {
        return format!("{:#}\n", object(trust_root, shown));
    }
    let head = match shown {
        Shown::Root => String::new(),
        Shown::Link(_, true) => "VERIFIED    it follows the trust root that was named\n".to_owned(),
        Shown::Link(_, false) => {
            "UNVERIFIED  anybody may have written this (--trust-root FILE verifies)\n".to_owned()
        }
        Shown::Chain(steps) => {
            format!("VERIFIED    {steps} step(s) from the trust root that was named to this one\n")
        }
    };
    let tail = match shown {
        Shown::Link(by, _) => signers(by),
        Shown::Root | Shown::Chain(_) => String::new(),
    };
    format!("{head}{}{tail}", root(name, trust_root))
}

fn object(root: &TrustRoot, shown: &Shown<'_>) -> Value {
    let (kind, verified, signers): (_, _, &[KeyId]) = match shown {
        Shown::Root => ("trust-root", false, &[]),
        Shown::Link(signers, verified) => ("link", *verified, signers),
        Shown::Chain(_) => ("chain", true, &[]),
    };
    let roles: Map<String, Value> = RoleName::ALL
        .into_iter()
        .map(|name| {
            let role = root.role(name);
            let value = json!({
                "threshold": role.threshold(),
                "key_ids": role.key_ids(),
                "own": root.has_own(name),
            });
            (name.to_string(), value)
        })
        .collect();
    json!({
        "kind": kind,
        "verified": verified,
        "generation": root.generation(),
        "development": root.is_development(),
        "fingerprint": root.fingerprint(),
        "roles": roles,
        "signed_by": signers,
    })
}
