# Owns one store and its folder on behalf of a test: sh -c THIS supervise SCRIPT, in that folder. SCRIPT starts the store.
# Commands come over stdin, one a line, and each is answered with one line. When stdin ends, which it does however the
# test ended, the store is killed and the folder removed.
script=$1
folder=$PWD
store=

# The store and all its descendants, parents first. A process group would not do: PostgreSQL's backends leave theirs.
family() {
    echo "$1"
    for child in $(cat "/proc/$1/task/"*/children); do family "$child"; done
}

# A zombie counts as gone: it has only to be collected by its parent.
running() {
    read -r stat <"/proc/$1/stat" || return 1
    case "${stat##*) }" in [ZX]*) return 1 ;; esac
}

send() { kill "-$1" $(family "$store"); }

end() {
    [ -n "$store" ] || return 0
    members=$(family "$store")
    kill -KILL $members
    wait "$store"
    for member in $members; do
        while running "$member"; do sleep 0.01; done
    done
    store=
}

while read -r command; do
    answer=done
    case $command in
        start) end; sh -c "$script" </dev/null >>log 2>&1 & store=$! ;;
        kill) end ;;
        pause) send STOP ;;
        resume) send CONT ;;
        ask) { [ -n "$store" ] && running "$store" && answer=running; } || answer=ended ;;
    esac
    echo "$answer"
done
end
cd / && rm -rf "$folder"
