//! Builds the two programs of the appliance with cargo and finds what it made.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::paths::Paths;

/// What the programs are built for; .cargo/config.toml says so too.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A program of the appliance.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// Cargo package.
    pub package: &'static str,
    /// Name of the binary.
    pub binary: &'static str,
    /// Cargo profile.
    pub profile: &'static str,
}

/// PID 1: aborts on a panic, so that the kernel restarts the machine.
pub const INIT: Program = Program {
    package: "init",
    binary: "init",
    profile: "init",
};

/// The daemon: unwinds, so that a panic ends one connection.
pub const PLASMD: Program = Program {
    package: "provider",
    binary: "plasmd",
    profile: "release",
};

/// Cargo as this tool was started by, or the one in the path.
pub fn cargo(paths: &Paths) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(paths.root());
    cargo
}

/// Builds `program`; cargo's own output goes to stderr. Returns the path of the binary.
///
/// Its bytes depend on neither the checkout's nor the user's folders, which panic messages would name otherwise, nor on
/// RUSTFLAGS of the environment, which would replace those of the checkout and with them the static linking.
///
/// # Errors
/// When cargo cannot be started or the build fails.
pub fn build(paths: &Paths, program: Program) -> Result<PathBuf> {
    let output = cargo(paths)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .args(["--config", &remapping(paths.root(), &cargo_home())])
        .args([
            "build",
            "--locked",
            "--message-format=json-render-diagnostics",
        ])
        .args([
            "--package",
            program.package,
            "--bin",
            program.binary,
            "--profile",
            program.profile,
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo could not build {}",
        program.binary
    );
    match executable(&String::from_utf8_lossy(&output.stdout), program.binary) {
        Some(path) => Ok(path),
        None => bail!("cargo built {} but did not say where", program.binary),
    }
}

/// Where cargo keeps the sources of other crates.
fn cargo_home() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.unwrap_or_else(|| {
        PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cargo")
    })
}

/// A setting of cargo, added to those of the checkout: names for folders that differ from machine to machine.
fn remapping(root: &Path, cargo_home: &Path) -> String {
    let flag = |folder: &Path, name| format!("--remap-path-prefix={}={name}", folder.display());
    let flags = serde_json::json!([flag(cargo_home, "/cargo"), flag(root, "/phase")]);
    format!("target.{TARGET}.rustflags={flags}")
}

/// Finds the executable in cargo's JSON messages.
fn executable(messages: &str, binary: &str) -> Option<PathBuf> {
    messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let artifact = message.get("reason")? == "compiler-artifact";
        let target = message.get("target")?;
        let wanted = target.get("name")? == binary
            && target.get("kind")?.as_array()?.contains(&"bin".into());
        let path = message.get("executable")?.as_str()?;
        (artifact && wanted).then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_renamed_whatever_they_are_called() {
        assert_eq!(
            remapping(Path::new("/a b/\"c"), Path::new("/home/me/.cargo")),
            "target.x86_64-unknown-linux-gnu.rustflags=[\"--remap-path-prefix=/home/me/.cargo=/cargo\",\
             \"--remap-path-prefix=/a b/\\\"c=/phase\"]"
        );
    }

    #[test]
    fn the_executable_is_found_among_cargos_messages() {
        let messages = concat!(
            "not json\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"init"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"other"},"executable":"/t/other"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"init"},"executable":"/t/init"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages, "init"), Some("/t/init".into()));
        assert_eq!(executable(messages, "plasmd"), None);
    }
}
