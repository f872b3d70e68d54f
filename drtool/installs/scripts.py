"""The SQL and the shell that a GitLab of the Linux package is asked with; ``omnibus`` makes commands of them."""

from __future__ import annotations

# The schemas that GitLab 18.9 gives to pg_dump. The count goes through XML because only so can one statement count
# tables whose names it has just read.
COUNT_ALL_ROWS = """\
SELECT format('%I.%I', n.nspname, c.relname),
  (xpath('/row/rows/text()',
    query_to_xml(format('SELECT count(*) AS rows FROM ONLY %I.%I', n.nspname, c.relname), false, true, '')))[1]
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname IN ('public', 'gitlab_partitions_dynamic', 'gitlab_partitions_static')
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1"""

# Whoever looks may be root where the repositories are git's. $0 is the git of the package.
LIST_REFS = """\
git=$0; [ -x "$git" ] || git=git
for path; do
  printf '= %s\\n' "$path"
  printf '@ %s\\n' "$("$git" -c 'safe.directory=*' --git-dir="$path" symbolic-ref --quiet HEAD)"
  "$git" -c 'safe.directory=*' --git-dir="$path" for-each-ref --format='%(objectname) %(refname)' || exit 1
done"""

SEND_CLONE = """\
git=$0; [ -x "$git" ] || git=git
exec "$git" -c 'safe.directory=*' --git-dir="$1" bundle create - --all >/dev/null"""

# cat, because sh's own printf calls a full disk an I/O error.
WRITE_FILE = 'umask 077 && printf "%s\\n" "$1" | cat >"$0.new" && sync "$0.new" && mv -f -- "$0.new" "$0"'

# "$0" is the archive, "$1" the root. A fresh host may have neither directory; /. is what is behind a link.
KEEP_CONFIG = """\
set -eu
umask 077
mkdir -p -- "${0%/*}"
cd -- "$1"
set -- --
for name in etc/gitlab/. etc/ssh/ssh_host_*; do
  if [ -e "$name" ]; then set -- "$@" "$name"; fi
done
if [ $# -eq 1 ]; then set -- --files-from=/dev/null; fi
tar --create --gzip --file="$0.new" --exclude=etc/gitlab/./config_backup "$@"
sync "$0.new"
mv -f -- "$0.new" "$0\""""

# The archive is read to its end before anything goes. It is compressed for gzip's checksum: a tar cut short may pass.
PUT_BACK_CONFIG = """\
set -eu
gzip --test -- "$0"
cd -- "$1"
if [ -d etc/gitlab ]; then
  find etc/gitlab/ -mindepth 1 -maxdepth 1 ! -name config_backup -exec rm -rf -- {} +
fi
rm -f -- etc/ssh/ssh_host_*
tar --extract --gzip --preserve-permissions --keep-directory-symlink --file="$0\""""
