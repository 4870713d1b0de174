//! Links the C library behind the `squashfs-ng` feature. Without the feature this does nothing.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_SQUASHFS_NG").is_some() {
        // Our programs are static, and a static libsquashfs does not bring the compressors it uses.
        for library in ["squashfs", "zstd", "z", "lzma", "lz4", "lzo2"] {
            println!("cargo::rustc-link-arg-tests=-l:lib{library}.a");
        }
    }
}
