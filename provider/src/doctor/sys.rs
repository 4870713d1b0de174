//! Two questions to the kernel that no crate here asks.

/// Whether a time service keeps the clock (adjtimex(2), which everybody may read); none when the kernel refuses to say.
#[expect(unsafe_code, reason = "rustix has no adjtimex")]
pub(super) fn clock_is_synchronised() -> Option<bool> {
    // SAFETY: all zeroes are a valid `timex`, whose `modes` 0 asks and changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: adjtimex(2) reads and fills the one struct it is given, which lives on this stack.
    let code = unsafe { libc::adjtimex(&raw mut state) };
    (code >= 0).then_some(code != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0)
}

/// The version of Landlock that the kernel has (landlock_create_ruleset(2)); none when it has none or it is off.
#[expect(unsafe_code, reason = "the landlock crate keeps the number to itself")]
pub(super) fn landlock_version() -> Option<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no struct (null, size 0) and only returns a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok().filter(|version| *version > 0)
}
