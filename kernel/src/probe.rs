//! Doing what must not be done, and checking that it is caught: for the diagnostic image.

use alloc::string::String;

/// What the page tables allow: `Ok` if no page is both writable and executable, every stack has
/// its guard, and a null pointer faults.
#[cfg(godwit_image)]
pub fn audit() -> Result<String, String> {
    let audit = crate::mm::audit();
    let summary = alloc::format!("{audit:?}");
    let sound = audit.violations == 0
        && audit.guards == crate::mm::GUARDED_STACKS
        && audit.null_faults
        && audit.executable > 0
        && audit.mapped > audit.executable;
    if sound { Ok(summary) } else { Err(summary) }
}

/// There are no page tables of ours on the host.
#[cfg(not(godwit_image))]
pub fn audit() -> Result<String, String> {
    Ok(String::new())
}

/// Commits the offence named: `overflow` (the stack), `fault` (a null pointer), `write-text`,
/// `execute-data`. Each must end the image with a code of its own; coming back from one ends it
/// with another.
pub fn misbehave(offence: &str) -> ! {
    #[cfg(godwit_image)]
    crate::arch::x86_64::offence::commit(offence);
    crate::exit::exit(
        crate::exit::ExitCode::BadConfig,
        alloc::format!("nothing stopped us: {offence}"),
    )
}
