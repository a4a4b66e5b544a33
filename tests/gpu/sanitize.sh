#!/bin/sh
# sanitize.sh PROGRAMS REPORTS [TOOL...]: compute-sanitizer's tools over block calls and sessions of small models, after it was seen that they
# find planted faults. PROGRAMS: where sanitize_block, sanitize_session and planted were built; REPORTS: a folder for full reports. TOOL:
# memcheck, initcheck, racecheck, synccheck; all of them without. May be set: HEAD_DIMS, of the sessions; LIMIT_S, seconds for one program; ROWS,
# a file for the summary as JSON lines.
# sanitize_summary.py says what the reports say, and what cannot be judged; its exit status is this script's.
set -u
command -v compute-sanitizer >/dev/null || { echo "SKIP: no compute-sanitizer"; exit 77; }
here=$(cd "$(dirname "$0")" && pwd)
programs=$1 reports=$2
shift 2
[ $# -gt 0 ] || set -- memcheck initcheck racecheck synccheck
mkdir -p "$reports"
echo "$programs/planted" >"$reports/planted.path"
ldd "$programs/sanitize_session" | sed -n "s/.*libclusterfusion[^ ]* => \([^ ]*\).*/\1/p" >"$reports/library.path"

# check TOOL NAME PROGRAM ARGUMENT...: leaves NAME's report, output and exit status
check() {
  tool=$1 name=$2
  shift 2
  report=$reports/$tool-$name
  timeout "${LIMIT_S:-60}" compute-sanitizer --tool "$tool" --print-limit 2000 --log-file "$report.txt" "$@" >"$report.out" 2>&1
  echo $? >"$report.status"
  echo "$tool $name: $(grep SUMMARY "$report.txt" | head -1)"
}

for tool in "$@"; do
  rm -f "$reports/$tool"-*
  case $tool in
    memcheck) planted=overrun ;;
    initcheck) planted=uninitialised ;;
    racecheck) planted="race early_read" ;;
    synccheck) planted=divergent ;;
    *) echo "sanitize.sh: there is no $tool" >&2; exit 2 ;;
  esac
  for fault in $planted; do check "$tool" "planted-$fault" "$programs/planted" "$fault"; done
  for sound in ring handshake meeting flag; do check "$tool" "sound-$sound" "$programs/planted" "$sound"; done
  check "$tool" block "$programs/sanitize_block"
  for head_dim in ${HEAD_DIMS:-32 64 80 96 128 256}; do check "$tool" "session-$head_dim" "$programs/sanitize_session" "$head_dim"; done
done
exec python3 "$here/sanitize_summary.py" "$reports" "$@" ${ROWS:+--rows "$ROWS"}
