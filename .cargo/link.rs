//! Tells the linker to put next to each other what the usual ways through the program call (`order.ld`, written by benches/order.rs): a process
//! that begins maps 64 KiB of text at a fault.

fn main() {
    println!("cargo::rerun-if-changed=.cargo/order.ld");
    let value = |name| std::env::var(name).unwrap_or_default();
    // Elsewhere functions have other names, or speed is of no interest.
    if value("PROFILE") == "release" {
        println!("cargo::rustc-link-arg-bin=moored=-Wl,-T,{}/.cargo/order.ld", value("CARGO_MANIFEST_DIR"));
    }
}
