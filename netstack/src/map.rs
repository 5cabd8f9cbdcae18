//! Ordered maps and sets whose code an image holds once: [`Map`], [`Set`], and what is a [`Key`].
//!
//! A `BTreeMap` is compiled anew for each pair of key and value, at five kilobytes a time, and here are
//! dozens that are looked at when a session moves or a member says something. These are all the same
//! tree, of keys as words and of values behind a pointer. An entry costs an allocation and a
//! look-up one more step, so what every frame or request passes through has a `BTreeMap` of its own.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, btree_map};
use core::any::Any;
use core::fmt;
use core::iter::FilterMap;
use core::marker::PhantomData;
use core::net::{IpAddr, SocketAddr};
use core::ops::{Bound, RangeBounds};

use godwit_engine::Instant;
use godwit_engine::stack::ConnId;

use crate::cluster::MemberId;
use crate::cluster::message::Flow;
use crate::session::{ContentId, SessionId};

/// Words of the longest key: the two ends of a flow, or a content and who sends it.
const WORDS: usize = 5;
type Words = [u64; WORDS];
type Value = Box<dyn Any>;

/// What names an entry.
pub trait Key: Copy + 'static {
    /// Words it takes, of five.
    const LEN: usize;

    /// Writes what tells it from all others; the order is that of the words.
    fn write(self, words: &mut [u64]);
}

fn words<K: Key>(key: K) -> Words {
    const { assert!(K::LEN <= WORDS) };
    let mut words = [0; WORDS];
    key.write(&mut words);
    words
}

fn put(words: &mut [u64], from: impl IntoIterator<Item = u64>) {
    for (word, from) in words.iter_mut().zip(from) {
        *word = from;
    }
}

impl Key for u64 {
    const LEN: usize = 1;

    fn write(self, words: &mut [u64]) {
        put(words, [self]);
    }
}

impl Key for Instant {
    const LEN: usize = 1;

    fn write(self, words: &mut [u64]) {
        put(words, [self.order()]);
    }
}

impl Key for MemberId {
    const LEN: usize = 1;

    fn write(self, words: &mut [u64]) {
        put(words, [self.0.into()]);
    }
}

impl Key for ConnId {
    const LEN: usize = 1;

    fn write(self, words: &mut [u64]) {
        let index = u64::from(self.index) << 32;
        put(words, [index | u64::from(self.generation)]);
    }
}

impl Key for SessionId {
    const LEN: usize = 2;

    fn write(self, words: &mut [u64]) {
        put(words, [self.origin.into(), self.number]);
    }
}

impl Key for ContentId {
    const LEN: usize = 4;

    fn write(self, words: &mut [u64]) {
        let octets = self.0.as_chunks().0.iter().copied();
        put(words, octets.map(u64::from_be_bytes));
    }
}

impl Key for IpAddr {
    const LEN: usize = 3;

    fn write(self, words: &mut [u64]) {
        let [high, low] = address(self);
        put(words, [self.is_ipv6().into(), high, low]);
    }
}

impl Key for Flow {
    const LEN: usize = 5;

    fn write(self, words: &mut [u64]) {
        let end = |end: SocketAddr| u64::from(end.is_ipv6()) << 16 | u64::from(end.port());
        let ends = end(self.local) << 32 | end(self.remote);
        let [local, remote] = [self.local, self.remote].map(|end| address(end.ip()));
        put(words, [ends, local[0], local[1], remote[0], remote[1]]);
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    const LEN: usize = A::LEN + B::LEN;

    fn write(self, words: &mut [u64]) {
        if let Some((first, second)) = words.split_at_mut_checked(A::LEN) {
            self.0.write(first);
            self.1.write(second);
        }
    }
}

fn address(address: IpAddr) -> [u64; 2] {
    let bits = match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    };
    [(bits >> 64) as u64, bits as u64]
}

/// A map, ordered by its keys.
pub struct Map<K, V> {
    tree: BTreeMap<Words, Value>,
    types: PhantomData<(K, V)>,
}

fn entry<K: Key, V: 'static>(value: &Value) -> Option<(&K, &V)> {
    let (key, value) = value.downcast_ref::<(K, V)>()?;
    Some((key, value))
}

fn entry_mut<K: Key, V: 'static>(value: &mut Value) -> Option<(&K, &mut V)> {
    let (key, value) = value.downcast_mut::<(K, V)>()?;
    Some((key, value))
}

fn owned<K: Key, V: 'static>(value: Value) -> Option<(K, V)> {
    Some(*value.downcast::<(K, V)>().ok()?)
}

impl<K: Key, V: 'static> Map<K, V> {
    /// One without entries.
    pub const fn new() -> Map<K, V> {
        Map {
            tree: BTreeMap::new(),
            types: PhantomData,
        }
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.tree.is_empty()
    }

    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.tree.clear();
    }

    /// Is there an entry of that name?
    pub fn contains_key(&self, key: &K) -> bool {
        self.tree.contains_key(&words(*key))
    }

    /// An entry's value.
    pub fn get(&self, key: &K) -> Option<&V> {
        entry::<K, V>(self.tree.get(&words(*key))?).map(|entry| entry.1)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        entry_mut::<K, V>(self.tree.get_mut(&words(*key))?).map(|entry| entry.1)
    }

    /// Sets an entry; the value that it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.tree.insert(words(key), Box::new((key, value)))?;
        owned::<K, V>(old).map(|old| old.1)
    }

    /// Takes an entry out; the value that it had.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        owned::<K, V>(self.tree.remove(&words(*key))?).map(|old| old.1)
    }

    /// The place of an entry, to be filled if it is empty.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        Entry {
            place: self.tree.entry(words(key)),
            key,
            value: PhantomData,
        }
    }

    /// The first entry.
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        entry(self.tree.first_key_value()?.1)
    }

    /// Takes the first entry out.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        owned(self.tree.pop_first()?.1)
    }

    /// All entries, in order.
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.tree.values().filter_map(entry)
    }

    /// The same, with values to be changed.
    pub fn iter_mut(&mut self) -> IterMut<'_, K, V> {
        self.tree.values_mut().filter_map(entry_mut)
    }

    /// All names, in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> + Clone {
        self.iter().map(|entry| entry.0)
    }

    /// All values, in the order of their names.
    pub fn values(&self) -> impl Iterator<Item = &V> + Clone {
        self.iter().map(|entry| entry.1)
    }

    /// The same, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        self.iter_mut().map(|entry| entry.1)
    }

    /// The entries whose names are in a range, in order.
    pub fn range(&self, range: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        let bound = |bound: Bound<&K>| bound.map(|key| words(*key));
        let range = (bound(range.start_bound()), bound(range.end_bound()));
        self.tree.range(range).filter_map(|(_, value)| entry(value))
    }

    /// Forgets the entries that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.tree
            .retain(|_, value| entry_mut(value).is_some_and(|(key, value)| keep(key, value)));
    }
}

/// A place in a map.
pub struct Entry<'a, K, V> {
    place: btree_map::Entry<'a, Words, Value>,
    key: K,
    value: PhantomData<V>,
}

impl<'a, K: Key, V: 'static> Entry<'a, K, V> {
    /// The value that is there; if none is, what this makes.
    pub fn or_insert_with(self, make: impl FnOnce() -> V) -> &'a mut V {
        let value = match self.place {
            btree_map::Entry::Occupied(place) => place.into_mut(),
            btree_map::Entry::Vacant(place) => place.insert(Box::new((self.key, make()))),
        };
        let entry = entry_mut::<K, V>(value);
        entry.expect("all entries of a map are of its types").1
    }

    /// The value that is there; if none is, this one.
    pub fn or_insert(self, value: V) -> &'a mut V {
        self.or_insert_with(|| value)
    }

    /// The value that is there; if none is, the default.
    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }
}

/// Entries of a map, in order.
pub type Iter<'a, K, V> =
    FilterMap<btree_map::Values<'a, Words, Value>, fn(&'a Value) -> Option<(&'a K, &'a V)>>;
/// Entries of a map, in order, with values to be changed.
pub type IterMut<'a, K, V> = FilterMap<
    btree_map::ValuesMut<'a, Words, Value>,
    fn(&'a mut Value) -> Option<(&'a K, &'a mut V)>,
>;
/// Entries of a map that is no more, in order.
pub type IntoIter<K, V> =
    FilterMap<btree_map::IntoValues<Words, Value>, fn(Value) -> Option<(K, V)>>;

impl<'a, K: Key, V: 'static> IntoIterator for &'a Map<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<'a, K: Key, V: 'static> IntoIterator for &'a mut Map<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;

    fn into_iter(self) -> IterMut<'a, K, V> {
        self.iter_mut()
    }
}

impl<K: Key, V: 'static> IntoIterator for Map<K, V> {
    type Item = (K, V);
    type IntoIter = IntoIter<K, V>;

    fn into_iter(self) -> IntoIter<K, V> {
        self.tree.into_values().filter_map(owned)
    }
}

impl<K: Key, V: 'static> Extend<(K, V)> for Map<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Key, V: 'static> FromIterator<(K, V)> for Map<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Map<K, V> {
        let mut map = Map::new();
        map.extend(entries);
        map
    }
}

impl<K: Key, V: 'static> Default for Map<K, V> {
    fn default() -> Map<K, V> {
        Map::new()
    }
}

impl<K: Key, V: Clone + 'static> Clone for Map<K, V> {
    fn clone(&self) -> Map<K, V> {
        self.iter()
            .map(|(key, value)| (*key, value.clone()))
            .collect()
    }
}

impl<K: Key + PartialEq, V: PartialEq + 'static> PartialEq for Map<K, V> {
    fn eq(&self, other: &Map<K, V>) -> bool {
        self.iter().eq(other)
    }
}

impl<K: Key + Eq, V: Eq + 'static> Eq for Map<K, V> {}

impl<K: Key + fmt::Debug, V: fmt::Debug + 'static> fmt::Debug for Map<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

/// A set, in order.
#[derive(Clone, PartialEq, Eq)]
pub struct Set<K: Key>(Map<K, ()>);

impl<K: Key> Set<K> {
    /// An empty one.
    pub const fn new() -> Set<K> {
        Set(Map::new())
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Has it none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Is this one in it?
    pub fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Puts one in; was it new?
    pub fn insert(&mut self, key: K) -> bool {
        self.0.insert(key, ()).is_none()
    }

    /// Takes one out; was it there?
    pub fn remove(&mut self, key: &K) -> bool {
        self.0.remove(key).is_some()
    }

    /// The first.
    pub fn first(&self) -> Option<&K> {
        self.0.first_key_value().map(|entry| entry.0)
    }

    /// Takes the first out.
    pub fn pop_first(&mut self) -> Option<K> {
        self.0.pop_first().map(|entry| entry.0)
    }

    /// All, in order.
    pub fn iter(&self) -> impl Iterator<Item = &K> + Clone {
        self.0.keys()
    }

    /// Forgets those that are not to be kept.
    pub fn retain(&mut self, mut keep: impl FnMut(&K) -> bool) {
        self.0.retain(|key, ()| keep(key));
    }
}

impl<K: Key> IntoIterator for Set<K> {
    type Item = K;
    type IntoIter = core::iter::Map<IntoIter<K, ()>, fn((K, ())) -> K>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().map(|entry| entry.0)
    }
}

impl<'a, K: Key> IntoIterator for &'a Set<K> {
    type Item = &'a K;
    type IntoIter = core::iter::Map<Iter<'a, K, ()>, fn((&'a K, &'a ())) -> &'a K>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter().map(|entry| entry.0)
    }
}

impl<K: Key> Extend<K> for Set<K> {
    fn extend<I: IntoIterator<Item = K>>(&mut self, keys: I) {
        self.0.extend(keys.into_iter().map(|key| (key, ())));
    }
}

impl<K: Key> FromIterator<K> for Set<K> {
    fn from_iter<I: IntoIterator<Item = K>>(keys: I) -> Set<K> {
        let mut set = Set::new();
        set.extend(keys);
        set
    }
}

impl<K: Key, const N: usize> From<[K; N]> for Set<K> {
    fn from(keys: [K; N]) -> Set<K> {
        Set::from_iter(keys)
    }
}

impl<K: Key> Default for Set<K> {
    fn default() -> Set<K> {
        Set::new()
    }
}

impl<K: Key + fmt::Debug> fmt::Debug for Set<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn flow() -> impl Strategy<Value = Flow> {
        let octets = prop::array::uniform16(0u8..3);
        let v4 = prop::array::uniform4(0u8..3);
        let address = prop_oneof![v4.prop_map(IpAddr::from), octets.prop_map(IpAddr::from)];
        let end = (address, 0u16..3).prop_map(SocketAddr::from);
        (end.clone(), end).prop_map(|(local, remote)| Flow { local, remote })
    }

    /// The entries of a `BTreeMap` that had the same done to it.
    fn same<K: Key + Ord + fmt::Debug>(steps: Vec<(K, Option<u8>)>) {
        let mut map = Map::new();
        let mut model = BTreeMap::new();
        for (key, value) in steps {
            match value {
                Some(value) => assert_eq!(map.insert(key, value), model.insert(key, value)),
                None => assert_eq!(map.remove(&key), model.remove(&key)),
            }
            assert_eq!(map.len(), model.len());
        }
        assert!(map.iter().eq(&model));
        for key in model.keys() {
            assert_eq!(map.get(key), model.get(key));
            assert!(map.range(*key..).eq(model.range(key..)));
        }
        assert_eq!(map.pop_first(), model.pop_first());
        assert!(map.into_iter().eq(model));
    }

    fn steps<K: fmt::Debug>(
        keys: impl Strategy<Value = K>,
    ) -> impl Strategy<Value = Vec<(K, Option<u8>)>> {
        prop::collection::vec((keys, any::<Option<u8>>()), 0..60)
    }

    fn session() -> impl Strategy<Value = SessionId> {
        let number = prop_oneof![0u64..3, any::<u64>()];
        (0u32..3, number).prop_map(|(origin, number)| SessionId { origin, number })
    }

    proptest! {
        #[test]
        fn it_is_the_map_of_the_library(
            deadlines in steps((0u64..5, session())),
            contents in steps((0u32..3, prop::array::uniform32(0u8..2))),
            addresses in steps(prop_oneof![
                prop::array::uniform4(0u8..2).prop_map(IpAddr::from),
                prop::array::uniform16(0u8..2).prop_map(IpAddr::from),
            ]),
            conns in steps((0u32..3, 0u32..3)),
        ) {
            let at = Instant::from_nanos;
            same(deadlines.into_iter().map(|((due, id), v)| ((at(due), id), v)).collect());
            same(contents.into_iter().map(|((m, c), v)| ((MemberId(m), ContentId(c)), v)).collect());
            same(addresses);
            same(conns.into_iter().map(|((index, generation), v)| (ConnId { index, generation }, v)).collect());
        }

        #[test]
        fn no_two_flows_are_one(a in flow(), b in flow()) {
            assert_eq!(words(a) == words(b), a == b);
        }
    }
}
