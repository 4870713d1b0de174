//! The whole build against a source of a few lines, and the built kernel of this checkout against its fragments.

use std::fs;
use std::process::Command;

use super::*;
use crate::progress::Progress;

/// A source that behaves like the kernel's: answers become `.config`, compiling writes something that looks like a bzImage.
const MAKEFILE: &str = r#"
allnoconfig:
	@cp "$(KCONFIG_ALLCONFIG)" .config
	@sed -i -f lose.sed .config
bzImage:
	@echo "  CC      init/main.o"
	@test ! -e broken || { echo "init/main.c:1:2: error: odd"; exit 1; }
	@echo "  LD      vmlinux"
	@mkdir -p arch/x86/boot include/config
	@echo "6.12.0-test" > include/config/kernel.release
	@{ head -c 514 /dev/zero; printf 'HdrS %s' "$(KBUILD_BUILD_TIMESTAMP) $(KBUILD_BUILD_USER) $(HOSTILE)"; cat .config; } > arch/x86/boot/bzImage
"#;

struct Fake {
    folder: tempfile::TempDir,
    options: Options,
}

impl Fake {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let options = Options {
            fragments: at("kernel-config"),
            tarball: at("linux.tar"),
            cache: at("cache"),
        };
        let source = at("linux");
        for made in [
            "linux/kernel/configs",
            "linux/arch/x86/configs",
            "kernel-config",
        ] {
            fs::create_dir_all(at(made)).unwrap();
        }
        fs::write(source.join("Makefile"), MAKEFILE).unwrap();
        fs::write(
            source.join("Kconfig"),
            "config A\nconfig B\nconfig C\nconfig D\n",
        )
        .unwrap();
        fs::write(source.join("lose.sed"), "").unwrap();
        let tiny = "CONFIG_SIZE=y\nCONFIG_A=y\n";
        fs::write(source.join("kernel/configs/tiny-base.config"), "").unwrap();
        fs::write(source.join("kernel/configs/tiny.config"), tiny).unwrap();
        fs::write(source.join("arch/x86/configs/tiny.config"), "# note\n").unwrap();
        let fake = Self { folder, options };
        fake.fragment("base.config", "CONFIG_A=n  # not\nCONFIG_B=y  # b\n");
        fake.fragment("virtual.config", "CONFIG_C=7  # c\n");
        fake.fragment("bare-metal.config", "CONFIG_D=\"x\"  # d\n");
        fake.pack();
        fake
    }

    fn fragment(&self, name: &str, text: &str) {
        fs::write(self.options.fragments.join(name), text).unwrap();
    }

    fn source(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("linux").join(name), text).unwrap();
        self.pack();
    }

    fn pack(&self) {
        let status = Command::new("tar")
            .args(["--create", "--file", "linux.tar", "linux"])
            .current_dir(self.folder.path())
            .status();
        assert!(status.unwrap().success());
    }

    fn build(&self) -> Result<BuiltKernel> {
        build_with(&self.options, &Progress::new())
    }

    fn error(&self) -> String {
        format!("{:#}", self.build().unwrap_err())
    }

    fn left_over(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.options.cache.join("kernel")) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names
            .filter(|name| name != "lock" && !name.ends_with(".log"))
            .collect()
    }
}

/// Whether the programs a build runs are there; `cargo appliance test` installs them first.
fn can_make(test: &str) -> bool {
    let there = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    let all = ["make", "tar", "gcc", "ld", "zstd"].into_iter().all(there);
    if !all {
        println!("SKIPPED: {test}: make, tar, gcc, ld or zstd is not installed");
    }
    all
}

#[test]
fn the_first_build_compiles_and_the_second_does_not() {
    if !can_make("the_first_build_compiles_and_the_second_does_not") {
        return;
    }
    let fake = Fake::new();
    assert!(cached(&fake.options).unwrap().is_none());
    let first = fake.build().unwrap();
    assert!(!first.cached);
    assert_eq!((first.version.as_str(), first.options), ("6.12.0-test", 2));
    let config = fs::read_to_string(&first.config).unwrap();
    assert_eq!(
        config,
        "CONFIG_SIZE=y\n# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=7\nCONFIG_D=\"x\"\n"
    );
    let second = fake.build().unwrap();
    assert!(second.cached);
    assert_eq!(second.bzimage, first.bzimage);
    assert!(cached(&fake.options).unwrap().is_some());
    assert_eq!(fake.left_over().len(), 1, "{:?}", fake.left_over());

    // A better reason is no other kernel; another value and another source are.
    fake.fragment("virtual.config", "# moved\nCONFIG_C=7  # told better\n");
    assert!(fake.build().unwrap().cached);
    fake.fragment("virtual.config", "CONFIG_C=8  # c\n");
    assert!(!fake.build().unwrap().cached);
    fake.source("README", "a new version of the package");
    assert!(!fake.build().unwrap().cached);
}

#[test]
fn nothing_of_the_environment_reaches_the_kernel() {
    if !can_make("nothing_of_the_environment_reaches_the_kernel") {
        return;
    }
    // Every test runs with variables of cargo in its environment; make must see none of them.
    let fake = Fake::new();
    let makefile = MAKEFILE.replace(
        "$(HOSTILE)",
        "$(CARGO_MANIFEST_DIR)$(HOME)$(CARGO_PKG_NAME)",
    );
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    fake.source("Makefile", &makefile);
    let kernel = fs::read(fake.build().unwrap().bzimage).unwrap();
    let text = String::from_utf8_lossy(&kernel[514..]).into_owned();
    let head = text.split("CONFIG_").next().unwrap();
    let expected = head.strip_prefix("HdrS ").unwrap();
    let (date, rest) = expected.split_once(' ').unwrap();
    assert!(date.ends_with('Z'), "{date}");
    assert_eq!(rest, "phase ");
}

#[test]
fn a_lost_option_fails_the_build_and_says_where_it_was_asked_for() {
    if !can_make("a_lost_option_fails_the_build_and_says_where_it_was_asked_for") {
        return;
    }
    let fake = Fake::new();
    fake.source("lose.sed", "/CONFIG_B=/d\n/CONFIG_C=/s/7/9/\n");
    assert_eq!(
        fake.error(),
        "2 wanted kernel options are not in the configuration:\n  \
         CONFIG_B=y (base.config:2): is not set, a dependency is missing (see Kconfig:2)\n  \
         CONFIG_C=7 (virtual.config:1): is 9, another option decides it"
    );
    assert_eq!(fake.left_over(), [""; 0]);
    fake.source("lose.sed", "/CONFIG_B=/s/=y/=m/\n");
    assert_eq!(fake.error(), "the configuration holds modules: CONFIG_B");
}

#[test]
fn a_compiler_error_is_quoted_with_the_path_of_the_log() {
    if !can_make("a_compiler_error_is_quoted_with_the_path_of_the_log") {
        return;
    }
    let fake = Fake::new();
    fake.source("broken", "");
    let error = fake.error();
    assert!(error.contains("\n  init/main.c:1:2: error: odd"), "{error}");
    let path = error
        .split_once("the log is ")
        .and_then(|(_, rest)| rest.split_once(", it ends"))
        .map(|(path, _)| path.to_owned())
        .unwrap();
    assert!(fs::read_to_string(path).unwrap().contains("init/main.o"));
    assert_eq!(fake.left_over(), [""; 0]);
}

#[test]
fn two_builds_at_once_compile_once() {
    if !can_make("two_builds_at_once_compile_once") {
        return;
    }
    let fake = Fake::new();
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| fake.build())).collect();
        let results = threads.into_iter().map(|thread| thread.join().unwrap());
        results.map(|kernel| kernel.unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(results.iter().filter(|kernel| !kernel.cached).count(), 1);
    assert!(
        results
            .iter()
            .all(|kernel| kernel.bzimage == results[0].bzimage)
    );
}

#[test]
fn the_cache_lies_where_xdg_says() {
    let check = |xdg: Option<&str>, home: Option<&str>, expected: Option<&str>| {
        let found = cache_folder(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(found.as_deref(), expected.map(Path::new));
    };
    check(Some("/x"), Some("/h"), Some("/x/phase-appliance"));
    check(Some("x"), Some("/h"), Some("/h/.cache/phase-appliance"));
    check(None, Some("/h"), Some("/h/.cache/phase-appliance"));
    check(None, None, None);
}

/// The built kernel of this checkout, when there is one.
fn this_kernel(test: &str) -> Option<BuiltKernel> {
    let kernel = Options::of(&Paths::of_this_checkout()).and_then(|options| cached(&options));
    match kernel {
        Ok(Some(kernel)) => Some(kernel),
        Ok(None) => {
            println!("SKIPPED: {test}: the kernel is not built yet (cargo appliance build)");
            None
        }
        Err(error) => {
            println!("SKIPPED: {test}: {error:#}");
            None
        }
    }
}

#[test]
fn every_wanted_option_is_in_the_built_kernel() {
    let Some(kernel) = this_kernel("every_wanted_option_is_in_the_built_kernel") else {
        return;
    };
    let wanted = Wanted::read(&Paths::of_this_checkout().kernel_config()).unwrap();
    let text = fs::read_to_string(&kernel.config).unwrap();
    let config = Config::parse(&text);
    check::survived(&wanted, &config, None).unwrap_or_else(|lost| panic!("{lost}"));
    assert_eq!(config.modules().count(), 0);
    for name in ["CONFIG_MODULES", "CONFIG_DEVMEM", "CONFIG_DEVPORT"] {
        assert_eq!(config.get(name), None, "{name}");
    }

    // The same comparison fails for each option in turn when it is taken out: none is compared in vain.
    for wish in wanted.iter() {
        let changed: String = match wish.value {
            fragment::Value::Off => format!("{text}{}=y\n", wish.name),
            _ => text
                .lines()
                .filter(|line| !line.starts_with(&format!("{}=", wish.name)))
                .map(|line| format!("{line}\n"))
                .collect(),
        };
        let lost = check::survived(&wanted, &Config::parse(&changed), None).unwrap_err();
        assert_eq!(lost.0.len(), 1);
        assert_eq!(&lost.0[0].wish, wish);
    }
}

#[test]
fn the_built_kernel_is_within_its_size() {
    let Some(kernel) = this_kernel("the_built_kernel_is_within_its_size") else {
        return;
    };
    assert!(
        kernel.size <= BZIMAGE_BYTES_GOAL,
        "{} bytes are more than {BZIMAGE_BYTES_GOAL}",
        kernel.size
    );
}
