#!/usr/bin/env bash
# Makes every figure and table of docs/is-it-true.md again: `make figures`. Banks are built in the user's cache where they lack.
set -euo pipefail
cd "$(dirname "$0")"
iv=$(cd .. && pwd)/${BIN:-.venv/bin}/inversionview
say() { printf '\n$ inversionview %s\n' "$*"; "$iv" "$@"; }

# -- counting
say read counting "vvzccvczvvvzvcvc|v:8" --at query --site x0.post --fixed query --count 12
say inform counting --positions "query,:" --fixed --out images/true-counting-inform.png
say patch counting --at query:a0.0 --at query:x0.pre --at ::a0.0 --at ::a1.0 --cumulative both --limit 20000 \
  --out images/true-counting-patch.png
say patch counting --at query:m0 --at query:x0.post --at ::m1 --limit 20000
say dla counting --site "a*.*,m*"
say flow counting --out images/true-counting-flow.png

# -- addition
say read addition "615+861=1476" --at "=" --site a0.0 --fixed "=" --count 12
say inform addition --positions "=,A1" --sites "a0.*,a1.*" --fixed --out images/true-addition-inform.png
say patch addition --target A1 --change F1,S1 --position "=" --cumulative both --out images/true-addition-patch-A1.png
say patch addition --target A1 --change F2,S2 --position "=" --cumulative both --out images/true-addition-patch-A1-carry.png
say patch addition --target A2 --change F2,S2 --where "A1=1" --position A1 --cumulative both
say ablate addition --at "+:x0.post"
say ablate addition --at "=:a0.0" --at "=:a0.1" --at "=:a0.3"
say dla addition --target A1 --site "a*.*,m*" -k 3
say flow addition --target A1 --out images/true-addition-flow-A1.png
say flow addition --target A2 --where "A1=1" --out images/true-addition-flow-A2.png
say flow addition --target A3 --out images/true-addition-flow-A3.png
say flow addition --target A4 --out images/true-addition-flow-A4.png
