//! Merkle trees over lines (RFC 9162, section 2.1, with SHA-256), by which one line is proved without
//! the others.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

use crate::line::{LineHash, NotAHash};

/// Longest path of a proof: trees have less than 2^64 leaves.
pub const MAX_PATH: usize = 64;

/// The hash of a leaf or of an inner node.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TreeHash(pub [u8; 32]);

impl TreeHash {
    /// The hash of a leaf.
    #[must_use]
    pub fn leaf(entry: &[u8]) -> Self {
        let mut hash = Sha256::new_with_prefix([0]);
        hash.update(entry);
        Self(hash.finalize().into())
    }

    /// The hash of a node over two others.
    #[must_use]
    pub fn node(left: Self, right: Self) -> Self {
        let mut hash = Sha256::new_with_prefix([1]);
        hash.update(left.0);
        hash.update(right.0);
        Self(hash.finalize().into())
    }

    /// The root of the tree without leaves.
    #[must_use]
    pub fn of_nothing() -> Self {
        Self(Sha256::digest([]).into())
    }

    /// As 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        self.to_string()
    }
}

impl fmt::Display for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&LineHash(self.0), f)
    }
}

impl fmt::Debug for TreeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TreeHash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        text.parse().map(|LineHash(bytes)| Self(bytes))
    }
}

/// The root of a tree whose leaves come one after another, in memory that grows with the logarithm
/// of their number.
#[derive(Debug, Clone, Default)]
pub struct TreeBuilder {
    /// Roots of full trees of falling size, one for each bit that is set in `size`.
    full: Vec<TreeHash>,
    size: u64,
}

impl TreeBuilder {
    /// Adds a leaf.
    pub fn push(&mut self, leaf: TreeHash) {
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.full.pop() {
                hash = TreeHash::node(left, hash);
            }
        }
        self.full.push(hash);
        self.size += 1;
    }

    /// How many leaves there are.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The root over the leaves so far.
    #[must_use]
    pub fn root(&self) -> TreeHash {
        let mut hashes = self.full.iter().rev().copied();
        let Some(last) = hashes.next() else {
            return TreeHash::of_nothing();
        };
        hashes.fold(last, |right, left| TreeHash::node(left, right))
    }
}

/// Collects the path of one leaf while all leaves pass by.
#[derive(Debug, Clone)]
pub struct PathBuilder {
    /// The trees beside the path: where each ends, and what it has so far; in the order of leaves.
    trees: Vec<(u64, TreeBuilder)>,
    /// For each step of the path, from the leaf upwards, which of the trees it is.
    steps: Vec<usize>,
    index: u64,
    next: u64,
}

impl PathBuilder {
    /// The path of the leaf `index` in a tree of `size` leaves; `None` where it has no such leaf.
    #[must_use]
    pub fn new(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        // Downwards from the root: the half without the leaf is the next step from the top.
        let (mut start, mut end) = (0, size);
        let mut halves = Vec::new();
        while end - start > 1 {
            let length = end - start;
            let split = start + (1 << (63 - (length - 1).leading_zeros()));
            if index < split {
                halves.push((split, end));
                end = split;
            } else {
                halves.push((start, split));
                start = split;
            }
        }
        halves.reverse();
        let mut order: Vec<usize> = (0..halves.len()).collect();
        order.sort_unstable_by_key(|step| halves[*step].0);
        let mut steps = vec![0; halves.len()];
        for (place, step) in order.iter().enumerate() {
            steps[*step] = place;
        }
        Some(Self {
            trees: order
                .iter()
                .map(|step| (halves[*step].1, TreeBuilder::default()))
                .collect(),
            steps,
            index,
            next: 0,
        })
    }

    /// Takes the next leaf.
    pub fn push(&mut self, leaf: TreeHash) {
        let at = self.next;
        self.next += 1;
        if at == self.index {
            return;
        }
        let place = self.trees.partition_point(|(end, _)| *end <= at);
        if let Some((_, tree)) = self.trees.get_mut(place) {
            tree.push(leaf);
        }
    }

    /// The path, from the leaf upwards.
    #[must_use]
    pub fn path(&self) -> Vec<TreeHash> {
        self.steps
            .iter()
            .map(|place| self.trees[*place].1.root())
            .collect()
    }
}

/// The root that a leaf, its place and its path lead to (RFC 9162, section 2.1.3.2); `None` where
/// the path does not fit the place.
#[must_use]
pub fn root_of_path(leaf: TreeHash, index: u64, size: u64, path: &[TreeHash]) -> Option<TreeHash> {
    let mut last = size.checked_sub(1).filter(|last| index <= *last)?;
    let mut at = index;
    let mut hash = leaf;
    for step in path {
        if last == 0 {
            return None;
        }
        if at & 1 == 1 || at == last {
            hash = TreeHash::node(*step, hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = TreeHash::node(hash, *step);
        }
        at >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// MTH of RFC 9162, word for word.
    fn naive(leaves: &[TreeHash]) -> TreeHash {
        match leaves {
            [] => TreeHash::of_nothing(),
            [leaf] => *leaf,
            _ => {
                let split = leaves.len().next_power_of_two() / 2;
                let (left, right) = leaves.split_at(split);
                TreeHash::node(naive(left), naive(right))
            }
        }
    }

    /// PATH of RFC 9162, word for word.
    fn naive_path(index: usize, leaves: &[TreeHash]) -> Vec<TreeHash> {
        if leaves.len() == 1 {
            return Vec::new();
        }
        let split = leaves.len().next_power_of_two() / 2;
        let (left, right) = leaves.split_at(split);
        let (mut path, other) = match index < split {
            true => (naive_path(index, left), right),
            false => (naive_path(index - split, right), left),
        };
        path.push(naive(other));
        path
    }

    fn leaves(count: usize) -> Vec<TreeHash> {
        (0..count)
            .map(|number| TreeHash::leaf(&number.to_be_bytes()))
            .collect()
    }

    /// The leaves of the test vectors of Certificate Transparency, and the roots over the first ones.
    #[test]
    fn the_published_roots_come_out() {
        let hex = |text: &str| text.parse::<TreeHash>().unwrap();
        let inputs: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[
                0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d,
                0x6e, 0x6f,
            ],
        ];
        let roots = [
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        let mut tree = TreeBuilder::default();
        assert_eq!(
            tree.root(),
            hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        );
        for (input, root) in inputs.iter().zip(roots) {
            tree.push(TreeHash::leaf(input));
            assert_eq!(tree.root(), hex(root));
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_proved_and_nothing_else() {
        for size in 1..70 {
            let leaves = leaves(size);
            let root = naive(&leaves);
            for index in 0..size {
                let mut builder = PathBuilder::new(index as u64, size as u64).unwrap();
                leaves.iter().for_each(|leaf| builder.push(*leaf));
                let path = builder.path();
                assert_eq!(path, naive_path(index, &leaves), "{index} of {size}");
                let reached = |index, size| root_of_path(leaves[0], index, size, &path);
                assert_ne!(reached(size as u64, size as u64), Some(root));
                for claimed in 0..size {
                    let leads = root_of_path(leaves[index], claimed as u64, size as u64, &path);
                    assert_eq!(leads == Some(root), claimed == index);
                }
                let mut longer = path.clone();
                longer.push(root);
                let at = (index as u64, size as u64);
                assert_eq!(root_of_path(leaves[index], at.0, at.1, &longer), None);
                if let Some((_, shorter)) = path.split_last() {
                    assert_eq!(root_of_path(leaves[index], at.0, at.1, shorter), None);
                }
            }
        }
        assert!(PathBuilder::new(0, 0).is_none());
        assert!(PathBuilder::new(5, 5).is_none());
    }

    proptest! {
        #[test]
        fn large_trees_agree_with_the_definition(size in 1_usize..3000, at in any::<prop::sample::Index>()) {
            let leaves = leaves(size);
            let index = at.index(size);
            let mut tree = TreeBuilder::default();
            let mut path = PathBuilder::new(index as u64, size as u64).unwrap();
            for leaf in &leaves {
                tree.push(*leaf);
                path.push(*leaf);
            }
            prop_assert_eq!(tree.root(), naive(&leaves));
            prop_assert_eq!(
                root_of_path(leaves[index], index as u64, size as u64, &path.path()),
                Some(tree.root())
            );
        }

        #[test]
        fn hostile_places_lead_nowhere_and_do_not_panic(
            index in any::<u64>(), size in any::<u64>(), length in 0_usize..MAX_PATH,
        ) {
            let path = vec![TreeHash([7; 32]); length];
            let _ = root_of_path(TreeHash([1; 32]), index, size, &path);
        }
    }
}
