//! Sharing on one core: a lock that is never contended, and a cell for what boot writes once.
//!
//! Code runs on one core, and interrupt handlers touch only atomics, so [`Lock`] exists to make
//! sharing sound and to catch re-entry, not to wait. On the host, where tests are threads, it
//! spins.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
#[cfg(godwit_image)]
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// A function that is lent for the time of a call, to whoever is called then.
#[cfg(godwit_image)]
#[derive(Debug)]
pub struct Lent(AtomicPtr<*mut dyn FnMut()>);

#[cfg(godwit_image)]
impl Lent {
    /// Nothing lent.
    pub const fn nothing() -> Self {
        Self(AtomicPtr::new(core::ptr::null_mut()))
    }

    /// Runs `during`, while which [`Lent::call`] calls `function`.
    pub fn lend(&self, function: &mut dyn FnMut(), during: &mut dyn FnMut()) {
        // SAFETY: only the lifetime changes; the pointer is forgotten before this returns.
        let mut function: *mut dyn FnMut() = unsafe {
            core::mem::transmute::<*mut (dyn FnMut() + '_), *mut (dyn FnMut() + 'static)>(function)
        };
        self.0.store(&raw mut function, Ordering::Relaxed);
        during();
        self.0.store(core::ptr::null_mut(), Ordering::Relaxed);
    }

    /// Calls what is lent, once. `false`: there is nothing.
    pub fn call(&self) -> bool {
        let function = self.0.swap(core::ptr::null_mut(), Ordering::Relaxed);
        if function.is_null() {
            return false;
        }
        // SAFETY: `lend` has not returned, on this one core and thus further down on this stack, so
        // both pointers are good; its exclusive reference is used here only, and only once.
        unsafe { (**function)() };
        true
    }
}

/// A spin lock. Interrupt handlers never wait for one.
#[derive(Debug, Default)]
pub struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: access to the value is exclusive while `held` is set, so sharing the lock between
// threads moves at most the value itself between them.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A free lock around `value`.
    pub const fn new(value: T) -> Self {
        Self {
            held: AtomicBool::new(false),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lock, spinning while somebody else holds it.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        loop {
            if let Some(guard) = self.try_lock() {
                return guard;
            }
            core::hint::spin_loop();
        }
    }

    /// Takes the lock if it is free. The panic path uses this: whoever panicked may hold it.
    #[inline]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        self.held
            .compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
            .then_some(Guard { lock: self })
    }
}

/// The right to use what a [`Lock`] protects, until dropped.
#[derive(Debug)]
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: a guard exists only while `held` is set by us, so nobody else has a reference.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` makes this the only reference through the guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}

const EMPTY: u8 = 0;
const WRITING: u8 = 1;
const FULL: u8 = 2;

/// A value that is written once, usually during boot, and read ever after.
#[derive(Debug)]
pub struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written before `state` becomes FULL (release) and only shared after it is
// seen FULL (acquire); after that only `&T` is handed out.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(EMPTY),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Writes the value; gives it back if the cell already holds one.
    pub fn set(&self, value: T) -> Result<(), T> {
        if self
            .state
            .compare_exchange(EMPTY, WRITING, Ordering::Acquire, Ordering::Relaxed)
            .is_err()
        {
            return Err(value);
        }
        // SAFETY: moving the state from EMPTY to WRITING succeeded, so nobody else writes, and
        // nobody reads before it is FULL.
        unsafe { (*self.value.get()).write(value) };
        self.state.store(FULL, Ordering::Release);
        Ok(())
    }

    /// The value, once there is one.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        (self.state.load(Ordering::Acquire) == FULL)
            // SAFETY: FULL is stored after the value was written and never taken back.
            .then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_lock_is_not_given_twice() {
        let lock = Lock::new(1);
        let mut guard = lock.lock();
        assert!(lock.try_lock().is_none());
        *guard += 1;
        drop(guard);
        assert_eq!(*lock.lock(), 2);
    }

    #[test]
    fn once_keeps_the_first_value() {
        let once = Once::new();
        assert_eq!(once.get(), None::<&u32>);
        assert_eq!(once.set(1), Ok(()));
        assert_eq!(once.set(2), Err(2));
        assert_eq!(once.get(), Some(&1));
    }
}
