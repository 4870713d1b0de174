//! What a load by kexec needs. A load that does not fit does not fail: it takes the machine down. So it is computed before.

/// Memory of the machine in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What could be had now.
    pub available: u64,
}

/// What the loader needs beyond the image: page tables, purgatory, the programs that keep running.
const SPARE: u64 = 64 << 20;

/// Of all memory, the part that an image at run time may take: segments above half of it are refused by the kernel.
const PERCENT_MAX: u64 = 45;

/// Whether a kernel of `kernel` bytes that needs `run_time` bytes to run, with an initramfs of `initramfs` bytes, can be
/// loaded. The error is a sentence with the figures.
pub fn kexec_need(
    memory: Memory,
    kernel: u64,
    initramfs: u64,
    run_time: u64,
) -> Result<(), String> {
    let files = kernel.saturating_add(initramfs);
    let needed = files
        .saturating_mul(2)
        .saturating_add(run_time)
        .saturating_add(SPARE);
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    if memory.available < needed {
        return Err(format!(
            "{} MiB are needed and {} are free",
            mib(needed),
            memory.available >> 20
        ));
    }
    let resident = run_time.saturating_add(initramfs);
    if resident > memory.total / 100 * PERCENT_MAX {
        return Err(format!(
            "the image takes {} MiB, more than {PERCENT_MAX} % of {}",
            mib(resident),
            memory.total >> 20
        ));
    }
    Ok(())
}
