//! Doing what must not be done, and checking that it is caught: for the diagnostic image.

use alloc::string::String;

/// What the page tables allow: `Ok` if no page is both writable and executable, nothing but code can
/// be executed, code and constants are read-only, every stack has its guard, a null pointer faults,
/// and the processor applies all of that.
#[cfg(godwit_image)]
pub fn audit() -> Result<String, String> {
    let audit = crate::mm::audit();
    let summary = alloc::format!("{audit:?}");
    match audit.wrong {
        None => Ok(summary),
        Some(_) => Err(summary),
    }
}

/// There are no page tables of ours on the host.
#[cfg(not(godwit_image))]
pub fn audit() -> Result<String, String> {
    Ok(String::new())
}

/// Commits the offence named: `overflow` (the stack; `overflow:interrupt` and so on: one of those for
/// interrupts), `fault` (a null pointer), `write-text`, `write-rodata`, `execute-stack`,
/// `execute-heap`, `spin` (for ever). Each must end the image with a code of its own; coming back from one ends it
/// with another.
pub fn misbehave(offence: &str) -> ! {
    #[cfg(godwit_image)]
    crate::arch::x86_64::offence::commit(offence);
    crate::exit::exit(
        crate::exit::ExitCode::BadConfig,
        alloc::format!("nothing stopped us: {offence}"),
    )
}
