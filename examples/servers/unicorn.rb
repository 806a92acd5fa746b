# frozen_string_literal: true

# unicorn's settings for unicorn.toml.
require 'socket'

listen "127.0.0.1:#{ENV.fetch('PORT', '8080')}"
worker_processes 2
preload_app true

# A worker that has loaded the application sends READY=1 to psflip.
notify_socket = ENV.delete('NOTIFY_SOCKET')
after_worker_ready do |_server, _worker|
  if notify_socket
    notifier = Socket.new(:UNIX, :DGRAM)
    notifier.send('READY=1', 0, Socket.sockaddr_un(notify_socket.sub(/\A@/, "\0")))
    notifier.close
  end
end
