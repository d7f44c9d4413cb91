//! The buffers of eager execution: one for each result, from when it is first touched to when nothing reads it any more.

use std::collections::HashMap;

/// Buffers of results, by the numbers that an outline gives them.
pub struct Buffers<B> {
    held: Vec<Option<(usize, B)>>,
    /// Buffers that a result has given back, by length: asking the system each time would cost page faults, as eager frameworks know.
    spare: HashMap<usize, Vec<B>>,
    live_bytes: usize,
    peak_bytes: usize,
    allocations: usize,
}

impl<B> Buffers<B> {
    /// Room for so many.
    pub fn new(count: usize) -> Buffers<B> {
        Buffers {
            held: std::iter::repeat_with(|| None).take(count).collect(),
            spare: HashMap::new(),
            live_bytes: 0,
            peak_bytes: 0,
            allocations: 0,
        }
    }

    /// The buffer of a result that has one.
    pub fn get(&self, temp: usize) -> Option<&B> {
        self.held[temp].as_ref().map(|(_, buffer)| buffer)
    }

    /// The buffer of a result; if it has none yet, one of so many bytes, which `make` makes if none is spare.
    pub fn take<E>(&mut self, temp: usize, bytes: usize, make: impl FnOnce() -> Result<B, E>) -> Result<&B, E> {
        if self.held[temp].is_none() {
            let buffer = match self.spare.get_mut(&bytes).and_then(Vec::pop) {
                Some(buffer) => buffer,
                None => make()?,
            };
            self.allocations += 1;
            self.live_bytes += bytes;
            self.peak_bytes = self.peak_bytes.max(self.live_bytes);
            self.held[temp] = Some((bytes, buffer));
        }
        Ok(self.get(temp).expect("it is held now"))
    }

    /// Ends the life of a result.
    pub fn give_back(&mut self, temp: usize) {
        if let Some((bytes, buffer)) = self.held[temp].take() {
            self.live_bytes -= bytes;
            self.spare.entry(bytes).or_default().push(buffer);
        }
    }

    /// Ends the life of all.
    pub fn give_back_all(&mut self) {
        (0..self.held.len()).for_each(|temp| self.give_back(temp));
    }

    /// The most bytes of results alive at once, so far.
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    /// Buffers given out so far.
    pub fn allocations(&self) -> usize {
        self.allocations
    }
}
