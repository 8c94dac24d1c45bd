# bash completion of gotctl(8) and gotd(8)

_gotctl()
{
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command= w
	local commands="info log metrics stop reload authorized-keys authorized-principals explain help"
	case $before in
	-f|-c|-s|--gotsh) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
	esac
	for w in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		[[ " $commands " == *" $w "* ]] && { command=$w; break; }
	done
	local words
	case $command in
	"") words="-f $commands" ;;
	info) words=--json ;;
	log) words="verbose brief" ;;
	stop) words=--now ;;
	reload) words="-c -s -n" ;;
	authorized-*) words="-c --gotsh" ;;
	explain) words=-c; [[ $word == -* ]] || words="anonymous $(compgen -u -- "$word")" ;;
	esac
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _gotctl gotctl

_gotd()
{
	local word=${COMP_WORDS[COMP_CWORD]}
	case ${COMP_WORDS[COMP_CWORD-1]} in
	-f|-s) mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
	*) mapfile -t COMPREPLY < <(compgen -W "-d -f -n -s -v" -- "$word") ;;
	esac
}
complete -F _gotd gotd
