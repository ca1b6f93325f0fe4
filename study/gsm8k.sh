#!/usr/bin/env bash
# For one GPU, some hours: Qwen2.5-Coder-0.5B-Instruct on GSM8K, both sides trained, 64 problems x 8 samples a step, 100 steps.
# The head against the same tokens at two fixed temperatures, by the same number of rollouts.  Not run yet: it wants a GPU.
#
#   bash study/gsm8k.sh runs/gsm8k                        everything
#   bash study/gsm8k.sh runs/small --steps 1 ...          flags of train.py override, to try it small
#
# MODEL, TASK and HELD_OUT replace the hub's: a folder, and two files of problems.  What is done is not done again.
set -euo pipefail
out=${1:?the folder of the runs}
shift
model=${MODEL:-Qwen/Qwen2.5-Coder-0.5B-Instruct} task=${TASK:-gsm8k} held_out=${HELD_OUT:-gsm8k-test}
for name in head 0.7 1.0; do
  policy=(--policy "$name")
  [ "$name" = head ] && policy=(--temperature-estimator marginal --temperature-lr 1e-3 --tau-initial 0.8 --concentration 20)
  if [ ! -f "$out/$name/after.json" ]; then
    resume=()
    compgen -G "$out/$name/checkpoints/step-*" > /dev/null && resume=(--resume)
    python train.py --preset qwen3-0.6b-gsm8k --model "$model" --task "$task" --eval-task "$held_out" --steps 100 \
      --max-new-tokens 512 --out "$out/$name" "${policy[@]}" "$@" ${resume[@]+"${resume[@]}"}
  fi
  evaluated=(0.3 0.7 1.0 greedy)
  [ "$name" = head ] && evaluated+=(own)
  if [ ! -f "$out/$name/evaluated.md" ]; then
    python eval.py --model "$out/$name" --benchmark "$held_out" --policy "${evaluated[@]}" \
      ${PROBLEMS:+--problems "$PROBLEMS"} > "$out/$name/evaluated.part"
    mv "$out/$name/evaluated.part" "$out/$name/evaluated.md"
  fi
done
tail -n +1 "$out"/*/evaluated.md
