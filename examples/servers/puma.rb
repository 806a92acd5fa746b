# frozen_string_literal: true

# Puma's own settings for puma.toml and puma-cluster.toml: psflip gets READY=1 when Puma serves, in cluster mode when every worker does.
# With Puma 6, or with the gem sd_notify, Puma does this by itself and needs none of it.
require 'socket'

# Puma 5 would look for the gem sd_notify, and complain that it isn't there.
notify_socket = ENV.delete('NOTIFY_SOCKET')

Puma::Plugins.register('notify', Class.new(Puma::Plugin) do
  define_method(:start) do |launcher|
    launcher.events.on_booted do
      if notify_socket
        notifier = Socket.new(:UNIX, :DGRAM)
        notifier.send('READY=1', 0, Socket.sockaddr_un(notify_socket.sub(/\A@/, "\0")))
        notifier.close
      end
    end
  end
end)
plugin 'notify'
