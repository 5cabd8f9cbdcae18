//! Tasks of one instance: one per served session, polled in turns by the drive loop.
//!
//! Why not `async-task`: its safe `spawn` asks for `Send` futures, its `spawn_local` for `std`,
//! and the remaining `spawn_unchecked` is unsafe. Session futures hold `Rc`s (one instance is one
//! core), and this crate forbids unsafe code. What is left to write is small: futures in slots, a
//! queue of the slots to poll, and wakers that put a slot into the queue at most once.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Waker};

use concurrent_queue::ConcurrentQueue;

/// A future that stays on this core.
pub(crate) type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Names a task; never names another one later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaskId {
    slot: u32,
    generation: u32,
}

/// The tasks, each with a tag of its owner's.
pub(crate) struct Tasks<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    ready: Arc<ConcurrentQueue<TaskId>>,
}

struct Slot<T> {
    generation: u32,
    task: Option<Task<T>>,
}

struct Task<T> {
    tag: T,
    future: LocalFuture,
    wakeup: Arc<Wakeup>,
    waker: Waker,
}

/// What a waker holds on to.
struct Wakeup {
    id: TaskId,
    queued: AtomicBool,
    ready: Arc<ConcurrentQueue<TaskId>>,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            // The queue is unbounded and never closed, so this cannot fail.
            let _ = self.ready.push(self.id);
        }
    }
}

impl<T> Tasks<T> {
    pub(crate) fn new() -> Tasks<T> {
        Tasks {
            slots: Vec::new(),
            free: Vec::new(),
            ready: Arc::new(ConcurrentQueue::unbounded()),
        }
    }

    /// Take in a task; it is polled in the next turn.
    pub(crate) fn spawn(&mut self, tag: T, future: LocalFuture) -> TaskId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                generation: 0,
                task: None,
            });
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        let id = TaskId {
            slot,
            generation: place.generation,
        };
        let wakeup = Arc::new(Wakeup {
            id,
            queued: AtomicBool::new(false),
            ready: self.ready.clone(),
        });
        place.task = Some(Task {
            tag,
            future,
            waker: Waker::from(wakeup.clone()),
            wakeup: wakeup.clone(),
        });
        wakeup.wake_by_ref();
        id
    }

    /// Drop a task where it stands. Nothing happens if it is already gone.
    pub(crate) fn cancel(&mut self, id: TaskId) -> Option<T> {
        let place = self.slots.get_mut(id.slot as usize)?;
        if place.generation != id.generation {
            return None;
        }
        let task = place.task.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(id.slot);
        Some(task.tag)
    }

    /// Whether a task wants to be polled.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// How many tasks there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.iter().filter(|s| s.task.is_some()).count()
    }

    /// Poll every task that is ready now, at most `budget` of them and each at most once; tasks
    /// that wake meanwhile wait for the next turn. `around` gets the tag and polls the task by calling what it
    /// gets besides. Returns the tags of the tasks that ended.
    pub(crate) fn turn(
        &mut self,
        budget: usize,
        mut around: impl FnMut(&T, &mut dyn FnMut()),
    ) -> Vec<T> {
        let mut ended = Vec::new();
        for _ in 0..self.ready.len().min(budget) {
            let Ok(id) = self.ready.pop() else { break };
            let Some(place) = self.slots.get_mut(id.slot as usize) else {
                continue;
            };
            if place.generation != id.generation {
                continue;
            }
            let Some(task) = place.task.as_mut() else {
                continue;
            };
            // Cleared before the poll: a wake during the poll must count.
            task.wakeup.queued.store(false, Ordering::Release);
            let (future, waker) = (&mut task.future, &task.waker);
            let mut done = false;
            around(&task.tag, &mut || {
                let mut context = Context::from_waker(waker);
                done = future.as_mut().poll(&mut context).is_ready();
            });
            if done {
                ended.extend(self.cancel(id));
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use core::cell::{Cell, RefCell};
    use core::future::{pending, poll_fn};
    use core::task::Poll;

    /// Polls for ever, waking itself each time, and counts.
    fn restless(count: Rc<Cell<u32>>) -> LocalFuture {
        Box::pin(poll_fn(move |cx| {
            count.set(count.get() + 1);
            cx.waker().wake_by_ref();
            Poll::Pending
        }))
    }

    #[test]
    fn a_task_that_wakes_itself_does_not_starve_the_others() {
        let mut tasks = Tasks::new();
        let (greedy, modest) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        tasks.spawn(1, restless(greedy.clone()));
        tasks.spawn(2, restless(modest.clone()));
        for _ in 0..10 {
            tasks.turn(usize::MAX, |_, poll| poll());
        }
        assert_eq!((greedy.get(), modest.get()), (10, 10));
    }

    #[test]
    fn a_turn_stays_within_its_budget_and_goes_round() {
        let mut tasks = Tasks::new();
        let counts: Vec<_> = (0..5).map(|_| Rc::new(Cell::new(0))).collect();
        for (tag, count) in counts.iter().enumerate() {
            tasks.spawn(tag, restless(count.clone()));
        }
        for _ in 0..5 {
            tasks.turn(2, |_, poll| poll());
        }
        assert!(counts.iter().all(|count| count.get() == 2));
    }

    #[test]
    fn waking_many_times_polls_once() {
        let mut tasks = Tasks::new();
        let waker = Rc::new(RefCell::new(None));
        let polls = Rc::new(Cell::new(0));
        let (waker2, polls2) = (waker.clone(), polls.clone());
        tasks.spawn(
            (),
            Box::pin(poll_fn(move |cx| {
                *waker2.borrow_mut() = Some(cx.waker().clone());
                polls2.set(polls2.get() + 1);
                Poll::<()>::Pending
            })),
        );
        tasks.turn(10, |_, poll| poll());
        let waker = waker.borrow_mut().take().unwrap();
        for _ in 0..100 {
            waker.wake_by_ref();
        }
        tasks.turn(10, |_, poll| poll());
        tasks.turn(10, |_, poll| poll());
        assert_eq!(polls.get(), 2);
    }

    #[test]
    fn a_waker_of_a_dropped_task_never_wakes_its_successor() {
        let mut tasks = Tasks::new();
        let waker = Rc::new(RefCell::new(None));
        let waker2 = waker.clone();
        let first = tasks.spawn(
            1,
            Box::pin(poll_fn(move |cx| {
                *waker2.borrow_mut() = Some(cx.waker().clone());
                Poll::<()>::Pending
            })),
        );
        tasks.turn(10, |_, poll| poll());
        assert_eq!(tasks.cancel(first), Some(1));
        assert_eq!(tasks.cancel(first), None);
        let polls = Rc::new(Cell::new(0));
        let polls2 = polls.clone();
        let second = tasks.spawn(
            2,
            Box::pin(poll_fn(move |_| {
                polls2.set(polls2.get() + 1);
                Poll::<()>::Pending
            })),
        );
        assert_eq!(second.slot, first.slot, "the slot is used again");
        tasks.turn(10, |_, poll| poll());
        waker.borrow_mut().take().unwrap().wake();
        tasks.turn(10, |_, poll| poll());
        assert_eq!(polls.get(), 1);
    }

    #[test]
    fn ended_tasks_are_reported_and_their_slots_freed() {
        let mut tasks = Tasks::new();
        for tag in 0..3 {
            tasks.spawn(tag, Box::pin(async {}));
        }
        tasks.spawn(3, Box::pin(pending()));
        assert_eq!(tasks.turn(10, |_, poll| poll()), [0, 1, 2]);
        assert_eq!(tasks.len(), 1);
        for tag in 4..7 {
            tasks.spawn(tag, Box::pin(async {}));
        }
        assert_eq!(tasks.slots.len(), 4);
    }
}
