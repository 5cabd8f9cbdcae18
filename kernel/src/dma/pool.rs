//! Buffers for devices to write into: of one size, from one piece of memory.

use alloc::alloc::{alloc, dealloc, handle_alloc_error};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;
use core::slice;

use bytes::Bytes;

use super::PAGE;
use crate::sync::Lock;

/// Buffers of one size, in one piece of memory. Dropping a [`Buffer`] puts it back.
#[derive(Debug)]
pub struct Pool {
    memory: NonNull<u8>,
    layout: Layout,
    size: usize,
    count: u32,
    free: Lock<Free>,
}

/// Buffers that are free. Those that never were in use are not initialised: doing that to all of
/// them at boot costs a tenth of the boot.
#[derive(Debug)]
struct Free {
    used_before: Vec<u32>,
    next_fresh: u32,
}

// SAFETY: the memory is only reached through `Buffer`s, each of which exclusively owns its part.
unsafe impl Send for Pool {}
// SAFETY: as above; the free list is behind a lock.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool of `count` buffers of `size` bytes, rounded up to a multiple of 64.
    pub fn new(count: u32, size: usize) -> Arc<Self> {
        let size = size.max(1).next_multiple_of(64);
        let total = size.saturating_mul(count.max(1) as usize);
        let layout = Layout::from_size_align(total, PAGE).unwrap_or(Layout::new::<[u8; 64]>());
        assert!(layout.size() == total, "pool size overflows");
        // SAFETY: the layout is not empty.
        let Some(memory) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        Arc::new(Self {
            memory,
            layout,
            size,
            count,
            free: Lock::new(Free {
                used_before: Vec::with_capacity(count as usize),
                next_fresh: 0,
            }),
        })
    }

    /// A buffer, unless all are in use.
    pub fn take(self: &Arc<Self>) -> Option<Buffer> {
        let mut free = self.free.lock();
        if let Some(index) = free.used_before.pop() {
            return Some(self.buffer(index));
        }
        let index = free.next_fresh;
        if index >= self.count {
            return None;
        }
        free.next_fresh += 1;
        let buffer = self.buffer(index);
        // SAFETY: the part of this buffer, which nobody else has.
        unsafe { buffer.start().as_ptr().write_bytes(0, self.size) };
        Some(buffer)
    }

    fn buffer(self: &Arc<Self>, index: u32) -> Buffer {
        Buffer {
            pool: Arc::clone(self),
            index,
        }
    }

    /// How many buffers are free.
    pub fn available(&self) -> usize {
        let free = self.free.lock();
        free.used_before.len() + (self.count - free.next_fresh) as usize
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; every buffer holds an `Arc` of the pool, so
        // none is left.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// A buffer from a [`Pool`].
#[derive(Debug)]
pub struct Buffer {
    pool: Arc<Pool>,
    index: u32,
}

impl Buffer {
    fn start(&self) -> NonNull<u8> {
        // SAFETY: indices are below the pool's count, so this stays inside its memory.
        unsafe { self.pool.memory.add(self.index as usize * self.pool.size) }
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: this buffer is the only owner of its part, and the device is not: buffers that a
        // device writes to are inside a queue, out of reach.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.pool.size) }
    }

    /// Overwrites the contents: whoever has the buffer next does not find them.
    pub fn wipe(&mut self) {
        self.bytes_mut().fill(0);
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `bytes`, and borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start().as_ptr(), self.pool.size) }
    }

    /// How many bytes it holds.
    pub(super) fn size(&self) -> usize {
        self.pool.size
    }

    /// Where it is in memory.
    pub(super) fn address(&self) -> *const u8 {
        self.start().as_ptr()
    }

    /// The part `offset..offset + len` (cut to the buffer) as `Bytes`; the buffer goes back to its
    /// pool when the last clone is dropped.
    pub fn into_bytes(self, offset: usize, len: usize) -> Bytes {
        struct Part {
            buffer: Buffer,
            from: usize,
            to: usize,
        }
        impl AsRef<[u8]> for Part {
            fn as_ref(&self) -> &[u8] {
                self.buffer.bytes().get(self.from..self.to).unwrap_or(&[])
            }
        }
        let from = offset.min(self.pool.size);
        let to = offset.saturating_add(len).min(self.pool.size);
        Bytes::from_owner(Part {
            buffer: self,
            from,
            to,
        })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free.lock().used_before.push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_returns_to_its_pool_when_its_last_bytes_go() {
        let pool = Pool::new(2, 100);
        let mut buffer = pool.take().unwrap();
        buffer.bytes_mut()[10..13].copy_from_slice(b"abc");
        let bytes = buffer.into_bytes(10, 3);
        let clone = bytes.clone();
        drop(bytes);
        assert_eq!(pool.available(), 1);
        assert_eq!(&clone[..], b"abc");
        drop(clone);
        assert_eq!(pool.available(), 2);
    }

    #[test]
    fn a_part_beyond_the_buffer_is_cut() {
        let pool = Pool::new(1, 64);
        assert_eq!(pool.take().unwrap().into_bytes(60, usize::MAX).len(), 4);
        assert_eq!(pool.take().unwrap().into_bytes(1000, 1).len(), 0);
    }

    #[test]
    fn an_empty_pool_gives_nothing() {
        let pool = Pool::new(1, 64);
        let taken = pool.take();
        assert!(pool.take().is_none());
        drop(taken);
        assert!(pool.take().is_some());
    }
}
