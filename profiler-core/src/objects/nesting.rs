//! Which reported holders are inside which others.

/// No reported holder, or several that are not within one another.
pub(super) const NOBODY: u16 = u16::MAX;

/// Which reported holders are inside which others.
pub(super) struct Nesting {
    /// The holder around each; [`NOBODY`] if there is none.
    pub(super) around: Vec<u16>,
    depths: Vec<u16>,
}

impl Nesting {
    /// `around` gives the holder around each; none is inside itself.
    pub(super) fn of(around: Vec<u16>) -> Self {
        let depth = |mut of: u16| {
            let mut depth = 0;
            while let Some(&above) = around.get(usize::from(of)) {
                (of, depth) = (above, depth + 1);
            }
            depth
        };
        let depths = (0..around.len() as u16).map(depth).collect();
        Self { around, depths }
    }

    /// The innermost holder that has both.
    pub(super) fn common(&self, mut a: u16, mut b: u16) -> u16 {
        while a != b {
            let depth = |of: u16| self.depths.get(usize::from(of)).copied().unwrap_or(0);
            let deeper = if depth(a) >= depth(b) { &mut a } else { &mut b };
            match self.around.get(usize::from(*deeper)) {
                Some(&above) => *deeper = above,
                None => return NOBODY,
            }
        }
        a
    }

    /// Adds each holder's value to those of all holders around it.
    pub(super) fn add_up<T: Copy>(&self, of: &mut [T], add: impl Fn(&mut T, T)) {
        let mut inner_first: Vec<u16> = (0..self.around.len() as u16).collect();
        inner_first.sort_by_key(|&holder| std::cmp::Reverse(self.depths[usize::from(holder)]));
        for holder in inner_first {
            let own = of[usize::from(holder)];
            if let Some(above) = of.get_mut(usize::from(self.around[usize::from(holder)])) {
                add(above, own);
            }
        }
    }
}
