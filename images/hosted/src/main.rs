//! The program; all of it is in the library, which tests use, too.

use std::process::ExitCode;

use nix::libc;

/// Memory below this is kept when it is freed, in octets: the most that glibc takes for both limits.
const KEPT: libc::c_int = 32 * 1024 * 1024;

fn main() -> ExitCode {
    keep_memory();
    godwit_hosted::main()
}

/// Services make buffers of some 100 KiB and let them go again. Given back to the kernel each time, they would
/// cost a page fault for every 4 KiB: half the throughput of a download.
fn keep_memory() {
    for limit in [libc::M_MMAP_THRESHOLD, libc::M_TRIM_THRESHOLD] {
        // SAFETY: no other thread runs yet, and the call changes nothing but the allocator's limits; one that
        // it does not take stays as it is.
        unsafe { libc::mallopt(limit, KEPT) };
    }
}
